"""Runs the stages of a job in order: complete stages are skipped, interrupted stages continue."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from p5dist.config import RunConfig, dump_job, load_job
from p5dist.config.notes import notes
from p5dist.data.events import check_events
from p5dist.data.manifest import Manifest
from p5dist.environment.ray_session import connect
from p5dist.environment.redact import redact, redact_text
from p5dist.errors import BusyError, ConfigError, P5Error, StoppedError
from p5dist.inference.lists.candidates import check_values
from p5dist.inference.lists.inputs import check_files
from p5dist.inference.scoring import scores_here
from p5dist.observe.events import Callback
from p5dist.observe.stages import (
    STATE,
    check_inputs,
    check_owner,
    check_shared_data,
    discarded,
    marker,
    select,
    state_of,
)
from p5dist.observe.tracking import Tracked, Tracker, evaluation, tracker
from p5dist.storage import RunFolder


def run(
    job: RunConfig,
    wanted: list[str],
    *,
    fresh: bool = False,
    callbacks: Callable[[str], Sequence[Callback]] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Run stages of a job; complete stages are skipped, interrupted stages continue.

    Args:
        wanted: stages, see :func:`.stages.select`.
        fresh: delete the results of the first of these stages and all later stages before.
        callbacks: hear the events of a training stage in this process.
        stop: set by another thread, it ends a training stage after a checkpoint.

    Returns:
        Result by stage.

    Raises:
        RunFolderError: the run folder belongs to another job or is in use.
    """
    stages = select(job, wanted)
    folder = RunFolder.of_job(job)
    folder.root.make()
    log = logging.LoggerAdapter(logging.getLogger("p5dist"), {"run": job.name})
    results: dict[str, Any] = {}
    with lock(folder):
        if fresh:
            _check_before_discarding(job, folder, stages)
            for stage in reversed(discarded(job, stages)):
                _discard(folder, stage)
        check_owner(job, folder)
        check_shared_data(job, folder)
        for warning in check_inputs(job, folder, stages):
            log.warning(f"warning: {warning}")
        folder.job.write_text(_without_secrets(job))
        began = time.time()
        with _noted(folder), tracker(job, str(folder.root)) as tracked:
            _check_starts(job, folder, _to_train(job, folder, stages))
            lists = "recommend" in stages and state_of(job, folder, "recommend") != "complete"
            if lists:
                check_files(job)
            checked = False
            for number, stage in enumerate(stages, 1):
                state = state_of(job, folder, stage)
                heading = f"{number}/{len(stages)} {stage}"
                # The report is made whenever it is asked for.
                if state == "complete" and stage != "report":
                    log.info(f"{heading} complete, skipped")
                    results[stage] = marker(folder, stage).read_json()
                    continue
                if stage != "prepare" and not checked:
                    _check_trainings(job, folder, stages)
                    if "evaluate" in stages:
                        _check_evaluated(job, folder)
                    if lists:
                        check_values(job, folder.prepare)
                    checked = True
                log.info(f"{heading} {'continues' if state == 'to continue' else 'started'}")
                start = time.time()
                more = [] if callbacks is None else callbacks(stage)
                results[stage] = _run_stage(job, folder, stage, tracked, more, stop)
                log.info(f"{heading} done in {time.time() - start:.1f} s")
        log.info(f"{job.name} in {time.time() - began:.0f} s: {folder.root}")
    return results


def run_job(
    job: RunConfig | str | Path,
    stages: Sequence[str] = (),
    *,
    overrides: Sequence[str] = (),
    fresh: bool = False,
) -> dict[str, Any]:
    """Run stages of a job, as the command ``p5dist run`` does: complete stages are skipped,
    interrupted stages continue.

    Args:
        job: a job, or the path of a job file.
        stages: such as ``["prepare", "pretrain"]``; empty: all stages of the job.
        overrides: settings that replace settings of the job file, such as ``pretrain.steps=100``.
        fresh: delete the results of the first of these stages and all later stages before.

    Returns:
        The result of each stage by name.

    Raises:
        ConfigError: the job file is invalid, or the job has no such stage.
        P5Error: any error of the stages.
    """
    for name, words in (("stages", stages), ("overrides", overrides)):
        listed = isinstance(words, Sequence) and not isinstance(words, str)
        if not (listed and all(isinstance(word, str) for word in words)):
            raise ConfigError(
                f"{name} is not a list of text", where=name, value=repr(words),
                fix='for example stages=["prepare"], overrides=["pretrain.steps=100"]',
            )  # fmt: skip
    if not isinstance(job, RunConfig | str | Path):
        raise ConfigError(
            "not a job", where="job", value=repr(job), rule="a Job, or the path of a job file",
            fix='for example p5dist.run("job.yaml")',
        )  # fmt: skip
    if isinstance(job, RunConfig):
        if overrides:
            raise ConfigError(
                "overrides are for job files", where="overrides", value=", ".join(overrides),
                rule="a job built in Python already has its settings",
                fix="pass the path of the job file, or use job.replaced(…)",
            )  # fmt: skip
    else:
        job = load_job(job, list(overrides))
    for note in notes(job):
        logging.getLogger("p5dist").warning(f"no effect: {note}")
    return run(job, list(stages), fresh=fresh)


def _run_stage(
    job: RunConfig,
    folder: RunFolder,
    stage: str,
    tracked: Tracker | None,
    callbacks: Sequence[Callback],
    stop: threading.Event | None,
) -> Any:
    if stage == "report":
        from p5dist.report import stage as report

        return report.run(job, folder)
    if stage == "prepare":
        from p5dist.environment.workers import workers_for

        imports = "p5dist.prepare.shard_tasks"
        with closing(workers_for(job.scale, "prepare", imports)) as workers:
            from p5dist.prepare import stage as prepare

            return prepare.run(job, folder, workers).model_dump(mode="json")
    if stage in job.trainings() or not scores_here(job):
        connect(job.scale)
    if stage in job.trainings():
        from p5dist.train import driver

        tracking = [] if tracked is None else [Tracked(stage, tracked.metrics)]
        return driver.run(job, folder, stage, [*tracking, *callbacks], stop)
    if stage == "evaluate":
        from p5dist.inference.evaluate import stage as evaluate

        result = evaluate.run(job, folder)
        if tracked is not None:
            tracked.metrics(evaluation(result))
        return result
    from p5dist.inference import recommend

    return recommend.run(job, folder)


def _to_train(job: RunConfig, folder: RunFolder, stages: list[str]) -> list[str]:
    """The chosen training stages that are not complete."""
    trainings = [stage for stage in stages if stage in job.trainings()]
    return [stage for stage in trainings if state_of(job, folder, stage) != "complete"]


def _check_before_discarding(job: RunConfig, folder: RunFolder, stages: list[str]) -> None:
    """Check that what the stages read is there, before results are deleted that cannot be made
    again without it."""
    if "prepare" in stages:
        from p5dist.prepare.sources import Inputs

        Inputs.find(job.prepare)
    if "recommend" in stages:
        check_files(job)
    trainings = [stage for stage in stages if stage in job.trainings()]
    _check_starts(job, folder, trainings, fresh=True)


def _check_starts(
    job: RunConfig, folder: RunFolder, trainings: list[str], *, fresh: bool = False
) -> None:
    """Check, before anything runs, that weights of other runs are there."""
    for stage in trainings:
        start = job.trainings()[stage].init_from
        if start is not None and start not in job.trainings():
            from p5dist.train.starts import check_start

            check_start(job, stage, folder, fresh=fresh)


def _check_trainings(job: RunConfig, folder: RunFolder, stages: list[str]) -> None:
    """Check, before the first training, that all trainings have something to learn."""
    from p5dist.tasks.needs import check_training

    for stage in _to_train(job, folder, stages):
        check_training(job, stage, folder)


def _check_evaluated(job: RunConfig, folder: RunFolder) -> None:
    """Check, before the first training, that the events of targets are there."""
    if job.evaluate is not None and job.evaluate.events is not None:
        check_events(Manifest.read(folder.prepare), job.evaluate.events, "evaluate.events")


def _without_secrets(job: RunConfig) -> str:
    """The text of the job for the run folder, which more people can read than the job file."""
    return dump_job(RunConfig.model_validate(redact(job.model_dump(mode="json"))))


@contextmanager
def _noted(folder: RunFolder) -> Iterator[None]:
    """Keeps state.json: running during the command, then how the command ended; a killed command
    leaves running."""
    state_file = folder.root / STATE
    note = {"state": "running", "since": time.time(), "error": None}
    state_file.write_json(note)
    try:
        try:
            yield
        except KeyboardInterrupt as e:
            raise StoppedError(
                "stopped as asked", where=str(folder.root),
                fix="give the same command again: it continues, and skips complete stages",
            ) from e  # fmt: skip
    except BaseException as e:
        state, name = "stopped" if isinstance(e, StoppedError) else "failed", type(e).__name__
        note |= {"state": state, "error": redact_text(f"{name}: {e}")}
        with suppress(P5Error, OSError):  # if storage failed, the original error is the message
            state_file.write_json(note)
        raise
    state_file.write_json(note | {"state": "idle"})


def _discard(folder: RunFolder, stage: str) -> None:
    """Remove the results of a stage, marker first."""
    marker(folder, stage).remove()
    (folder.root / stage).remove()


@contextmanager
def lock(folder: RunFolder) -> Iterator[None]:
    """Lock a local run folder for one process; the lock ends with the process.

    Raises:
        BusyError: another process has it.
    """
    if not folder.root.is_local:
        yield
        return
    with Path(folder.root.path, ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise BusyError(
                "another process is working in this run folder", where=str(folder.root),
                rule="one p5dist process at a time in a run folder",
                fix="wait for the process, stop it, or give this job another name (name=…)",
            ) from e  # fmt: skip
        yield
