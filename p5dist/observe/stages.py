"""The states of the stages of a run: to do, to continue or complete.

They are read from the run folder: a stage is complete once its marker exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from p5dist.config import RunConfig, parse_job
from p5dist.data.manifest import MANIFEST
from p5dist.environment.redact import redact
from p5dist.errors import ConfigError, RunFolderError
from p5dist.storage import Folder, RunFolder

State = Literal["to do", "to continue", "complete"]

STATE = "state.json"
"""File in the run folder with the state of the latest command: running, or how it ended."""

_DERIVED = ("evaluate", "recommend", "report")  # cheap: repeated when their settings change


@dataclass(frozen=True)
class Step:
    """One stage of a job and its state."""

    stage: str
    state: State


def select(job: RunConfig, wanted: list[str]) -> list[str]:
    """The stages that a user names, in the order of the job; all stages if ``wanted`` is empty.
    ``finetune`` means every fine-tuning.

    Raises:
        ConfigError: the job has no such stage.
    """
    stages = job.stages()
    for name in wanted:
        if name not in stages and not (name == "finetune" and job.finetune):
            raise ConfigError(
                f"unknown stage '{name}'", where=f"job {job.name}", value=name,
                rule=f"the stages of this job: {', '.join(stages)}",
                fix="name one of them, or add its section to the job file",
            )  # fmt: skip
    return [s for s in stages if not wanted or s in wanted or s.split("/")[0] in wanted]


def progress(job: RunConfig, folder: RunFolder, wanted: list[str]) -> list[Step]:
    """The states of the wanted stages (see :func:`select`).

    Raises:
        RunFolderError: the run folder belongs to another job.
    """
    check_owner(job, folder)
    return [Step(stage, state_of(job, folder, stage)) for stage in select(job, wanted)]


def marker(folder: RunFolder, stage: str) -> Folder:
    """The file that exists once a stage is complete."""
    if stage == "prepare":
        return folder.prepare / MANIFEST
    if stage == "report":
        return folder.report
    return folder.root / stage / "result.json"


def state_of(job: RunConfig, folder: RunFolder, stage: str) -> State:
    """The state of a stage."""
    file = marker(folder, stage)
    if stage == "report" or not file.exists():
        left = {"prepare": "scratch"} | dict.fromkeys(job.trainings(), "checkpoints")
        begun = stage in left and (folder.root / stage / left[stage]).exists()
        return "to continue" if begun else "to do"
    if stage in _DERIVED and file.read_json()["job_fingerprint"] != job.fingerprint(stage):
        return "to do"
    return "complete"


def check_owner(job: RunConfig, folder: RunFolder) -> None:
    """Raise RunFolderError unless the stages in the folder were made with the settings of this
    job."""
    if not folder.job.exists():
        return
    owner = parse_job(folder.job.read_bytes().decode(), where=str(folder.job))
    for stage in owner.stages():
        if stage in _DERIVED or not (folder.root / stage).exists():
            continue
        then = redact(owner.identity(stage))
        now = redact(job.identity(stage)) if stage in job.stages() else {}
        different = _difference(then, now)
        if different is not None:
            key, old, new = different
            raise RunFolderError(
                f"the run folder belongs to another job: {stage} was made with other settings",
                where=str(folder.root), value=f"{key}: {old!r} then, {new!r} now",
                rule="a run folder holds one job",
                fix=f"give this job another name (name=…), or start anew: --fresh {stage}",
            )  # fmt: skip


def _difference(then: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key whose values differ: (dotted key, old, new)."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return None if then == now else (key, then, now)
    for name in [*then, *(n for n in now if n not in then)]:
        below = f"{key}.{name}" if key else name
        if found := _difference(then.get(name), now.get(name), below):
            return found
    return None
