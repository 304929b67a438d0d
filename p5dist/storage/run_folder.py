"""The layout of a run folder."""

from __future__ import annotations

from dataclasses import dataclass

from p5dist.storage.folder import Folder


@dataclass(frozen=True)
class RunFolder:
    """The layout of one run: ``<storage>/<run name>/``, one folder per stage."""

    root: Folder

    @classmethod
    def of(cls, storage: str, name: str) -> RunFolder:
        return cls(Folder.open(storage) / name)

    @property
    def job(self) -> Folder:
        return self.root / "job.yaml"

    @property
    def prepare(self) -> Folder:
        return self.root / "prepare"

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
