"""The stages of a job in order: which are complete, which continue, which start."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from p5dist.config import RunConfig, dump_job, parse_job
from p5dist.errors import ConfigError, P5Error, RunFolderError, StoppedError
from p5dist.manifest import MANIFEST
from p5dist.ray_session import connect
from p5dist.redact import redact, redact_text
from p5dist.storage import Folder, RunFolder
from p5dist.tracking import Tracker, evaluation, tracker

State = Literal["to do", "to continue", "complete"]

STATE = "state.json"
"""In the run folder: what the latest command is doing, or how it ended."""

_DERIVED = ("evaluate", "recommend", "report")  # cheap: made anew when their settings change


@dataclass(frozen=True)
class Step:
    """One stage of a job and how far it is."""

    stage: str
    state: State


def select(job: RunConfig, wanted: list[str]) -> list[str]:
    """The stages that a user names, in the order of the job; none named: all. ``finetune`` means
    every fine-tuning.

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


def plan(job: RunConfig, wanted: list[str]) -> list[Step]:
    """What :func:`run` would do.

    Raises:
        RunFolderError: the run folder belongs to another job.
    """
    folder = RunFolder.of(job.storage, job.name)
    _check_owner(job, folder)
    return [Step(stage, _state(job, folder, stage)) for stage in select(job, wanted)]


def run(job: RunConfig, wanted: list[str], *, fresh: bool = False) -> dict[str, Any]:
    """Run stages of a job; complete ones are skipped, interrupted ones continue.

    Args:
        wanted: stages, see :func:`select`.
        fresh: throw away what these stages, and all that build on them, have made before.

    Returns:
        Result by stage.

    Raises:
        RunFolderError: the run folder belongs to another job or is in use.
    """
    stages = select(job, wanted)
    folder = RunFolder.of(job.storage, job.name)
    folder.root.make()
    log = logging.LoggerAdapter(logging.getLogger("p5dist"), {"run": job.name})
    results: dict[str, Any] = {}
    with _lock(folder):
        if fresh:
            for stage in reversed(job.stages()[job.stages().index(stages[0]) :]):
                _discard(folder, stage)
        _check_owner(job, folder)
        folder.job.write_text(_without_secrets(job))
        began = time.time()
        with _noted(folder), tracker(job, str(folder.root)) as tracked:
            for number, stage in enumerate(stages, 1):
                state = _state(job, folder, stage)
                heading = f"{number}/{len(stages)} {stage}"
                if state == "complete":
                    log.info(f"{heading} complete, skipped")
                    results[stage] = _marker(folder, stage).read_json()
                    continue
                log.info(f"{heading} {'continues' if state == 'to continue' else 'started'}")
                start = time.time()
                results[stage] = _run_stage(job, folder, stage, tracked)
                log.info(f"{heading} done in {time.time() - start:.1f} s")
        log.info(f"{job.name} in {time.time() - began:.0f} s: {folder.root}")
    return results


def _run_stage(job: RunConfig, folder: RunFolder, stage: str, tracked: Tracker | None) -> Any:
    if stage == "report":
        from p5dist.report import stage as report

        return report.run(job, folder)
    if stage == "prepare":
        from p5dist.prepare.workers import workers_for

        with closing(workers_for(job.scale)) as workers:  # they start while the stage is imported
            from p5dist.prepare import stage as prepare

            return prepare.run(job, folder, workers).model_dump(mode="json")
    connect(job.scale)
    if stage in job.trainings():
        from p5dist.train import driver

        return driver.run(job, folder, stage, None if tracked is None else tracked.metrics)
    if stage == "evaluate":
        from p5dist.evaluate import stage as evaluate

        result = evaluate.run(job, folder)
        if tracked is not None:
            tracked.metrics(evaluation(result))
        return result
    from p5dist.recommend import stage as recommend

    return recommend.run(job, folder)


def _marker(folder: RunFolder, stage: str) -> Folder:
    """The file that exists once a stage is complete."""
    if stage == "prepare":
        return folder.prepare / MANIFEST
    if stage == "report":
        return folder.report
    return folder.root / stage / "result.json"


def _state(job: RunConfig, folder: RunFolder, stage: str) -> State:
    marker = _marker(folder, stage)
    if stage == "report" or not marker.exists():
        left = {"prepare": "scratch"} | dict.fromkeys(job.trainings(), "checkpoints")
        begun = stage in left and (folder.root / stage / left[stage]).exists()
        return "to continue" if begun else "to do"
    if stage in _DERIVED and marker.read_json()["job_fingerprint"] != job.fingerprint(stage):
        return "to do"
    return "complete"


def _check_owner(job: RunConfig, folder: RunFolder) -> None:
    """The stages that are there were made with the settings of this job."""
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


def _without_secrets(job: RunConfig) -> str:
    """The text of the job for the run folder, which more people read than the job file."""
    return dump_job(RunConfig.model_validate(redact(job.model_dump(mode="json"))))


@contextmanager
def _noted(folder: RunFolder) -> Iterator[None]:
    """state.json says that a command is at work, and how it ended unless it was killed."""
    place, note = folder.root / STATE, {"state": "running", "since": time.time(), "error": None}
    place.write_json(note)
    try:
        yield
    except BaseException as e:
        stopped = isinstance(e, (StoppedError, KeyboardInterrupt))
        name = type(e).__name__
        note |= {"state": "stopped" if stopped else "failed", "error": redact_text(f"{name}: {e}")}
        with suppress(P5Error, OSError):  # storage may be what failed; that error is the message
            place.write_json(note)
        raise
    place.write_json(note | {"state": "idle"})


def _difference(then: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key whose values differ: (dotted key, old, new)."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return None if then == now else (key, then, now)
    for name in [*then, *(n for n in now if n not in then)]:
        below = f"{key}.{name}" if key else name
        if found := _difference(then.get(name), now.get(name), below):
            return found
    return None


def _discard(folder: RunFolder, stage: str) -> None:
    """Remove what a stage made, marker first."""
    _marker(folder, stage).remove()
    (folder.root / stage).remove()


@contextmanager
def _lock(folder: RunFolder) -> Iterator[None]:
    """One process at a time works in a local run folder; the lock ends with the process."""
    if not folder.root.is_local:
        yield
        return
    with Path(folder.root.path, ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise RunFolderError(
                "another process is working in this run folder", where=str(folder.root),
                rule="one p5dist at a time in a run folder",
                fix="wait for it, stop it, or give this job another name (name=…)",
            ) from e  # fmt: skip
        yield
