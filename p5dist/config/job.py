"""A job built in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from p5dist.config.load import apply_overrides, explain, load_job
from p5dist.config.run import RunConfig


class Job(RunConfig):
    """A whole run, from the raw log to the report: the content of a job file, built in Python.

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
            overrides: settings that replace settings of the file, such as ``pretrain.steps=100``.

        Raises:
            ConfigError: no such file, not YAML, an unknown key, a value that breaks a rule.
        """
        return cls(**load_job(path, list(overrides)).model_dump(exclude_unset=True))

    def replaced(self, *overrides: str) -> Job:
        """The same job with other settings, such as ``pretrain.steps=100``.

        Raises:
            ConfigError: an unknown key, a value that breaks a rule.
        """
        values = self.model_dump(mode="json", exclude_unset=True)
        apply_overrides(values, overrides)
        return type(self)(**values)
