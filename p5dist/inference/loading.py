"""``p5dist.load``: a finished run in Python."""

from __future__ import annotations

from pathlib import Path

from p5dist.config import parse_job
from p5dist.errors import ConfigError, RunFolderError
from p5dist.inference.run import Run
from p5dist.storage import Folder, RunFolder


def load(run: str | Path, *, stage: str | None = None) -> Run:
    """A finished run.

    Args:
        run: folder (``STORAGE/NAME``) or URL of the run, such as ``s3://bucket/runs/shop``.
        stage: the training stage whose model ranks; left out: the last stage that ranks.

    Raises:
        RunFolderError: no run is there.
        ConfigError: not a folder or URL; no such stage; a kind whose package is not installed.
        ShardError: the prepared data is missing or damaged.
        CheckpointError: the training has no complete checkpoint yet.
    """
    if not isinstance(run, str | Path) or not str(run):
        raise ConfigError(
            "not a run", where="run", value=repr(run), rule="the folder or URL of a run",
            fix='for example p5dist.load("runs/shop")',
        )  # fmt: skip
    folder = RunFolder.at(Folder.open(str(run)))
    if not folder.job.exists():
        raise RunFolderError(
            "no run here", where=str(folder.root), rule="a run folder has a job.yaml",
            fix="give the folder STORAGE/NAME of a run, as p5dist run printed it",
        )  # fmt: skip
    job = parse_job(folder.job.read_bytes(), where=str(folder.job))
    stages = job.ranking_stages()
    if stage is not None and stage not in stages:
        raise ConfigError(
            "no such stage, or none that ranks items", where="stage", value=stage,
            rule=f"the stages of this run that rank: {', '.join(stages) or 'none'}",
            fix="name one of them, or leave stage out",
        )  # fmt: skip
    if not job.trainings():
        raise RunFolderError(
            "the run trains nothing", where=str(folder.job),
            rule="a model is trained by pretrain or finetune",
            fix="add a training section to the job and run it",
        )  # fmt: skip
    return Run(job, folder, stage or (stages[-1] if stages else None))
