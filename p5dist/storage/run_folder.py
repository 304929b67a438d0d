"""The layout of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from p5dist.storage.folder import Folder

if TYPE_CHECKING:
    from p5dist.config import RunConfig


@dataclass(frozen=True)
class RunFolder:
    """The layout of one run: ``<storage>/<run name>/``, one folder per stage."""

    root: Folder
    data_of: str | None = None
    """Name of the run beside this one whose prepared data is used; None: its own."""

    @classmethod
    def of(cls, storage: str, name: str) -> RunFolder:
        """The folder of a run with prepared data of its own."""
        return cls(Folder.open(storage) / name)

    @classmethod
    def of_job(cls, job: RunConfig) -> RunFolder:
        """The run folder of a job."""
        return cls(Folder.open(job.storage) / job.name, job.data_of)

    @classmethod
    def at(cls, root: Folder) -> RunFolder:
        """The run in a folder; its job file, if there is one, says whose prepared data it uses."""
        file = root / "job.yaml"
        job = yaml.safe_load(file.read_bytes()) if file.exists() else None
        return cls(root, job.get("data_of") if isinstance(job, dict) else None)

    @property
    def job(self) -> Folder:
        return self.root / "job.yaml"

    @property
    def prepare(self) -> Folder:
        run = self.root if self.data_of is None else self.root.above / self.data_of
        return run / "prepare"

    def training(self, stage: str) -> Folder:
        """Folder of a training stage: ``pretrain`` or ``finetune/<task>``."""
        return self.root / stage

    @property
    def evaluate(self) -> Folder:
        return self.root / "evaluate"

    @property
    def recommend(self) -> Folder:
        return self.root / "recommend"

    @property
    def report(self) -> Folder:
        return self.root / "report.html"
