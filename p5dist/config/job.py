"""A job built in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from p5dist.config.load import apply_overrides, explain, load_job
from p5dist.config.run import RunConfig


class Job(RunConfig):
    """A whole run, from the raw log to the report: what a job file is, built in Python.

    ``Job(name="shop", prepare={"source": {"files": "log.csv"}}, pretrain={"epochs": 3})`` takes the
    sections of a job file as mappings or section objects; :meth:`from_file` reads a job file.

    Raises:
        ConfigError: an unknown key, a value that breaks a rule.
    """

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as e:
            raise explain(e, settings, "Job") from None

    @classmethod
    def from_file(cls, path: str | Path, overrides: Sequence[str] = ()) -> Job:
        """The job of a file.

        Args:
            path: a YAML file.
            overrides: settings that replace the file's, such as ``pretrain.steps=100``.

        Raises:
            ConfigError: no such file, not YAML, or as for a job built in Python.
        """
        return cls(**load_job(path, list(overrides)).model_dump(exclude_unset=True))

    def replaced(self, *overrides: str) -> Job:
        """The same job with other settings, such as ``pretrain.steps=100``.

        Raises:
            ConfigError: as above.
        """
        values = self.model_dump(mode="json", exclude_unset=True)
        apply_overrides(values, overrides)
        return type(self)(**values)
