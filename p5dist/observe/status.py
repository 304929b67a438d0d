"""``p5dist status``: the progress of a run, read from its folder, during the run and after it.

Needs neither torch nor Ray nor access to the machines of the run.
"""

from __future__ import annotations

import fcntl
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from p5dist.config import RunConfig, load_job, parse_job
from p5dist.config.train import Training
from p5dist.data.manifest import Manifest
from p5dist.errors import P5Error, RunFolderError, ShardError
from p5dist.feed.mix import open_mix
from p5dist.feed.order import total_steps
from p5dist.inference.lists.parts import Parts
from p5dist.observe.metrics_log import read_metrics
from p5dist.observe.stages import STATE, progress
from p5dist.storage import Folder, RunFolder

_RECENT = 10  # logged steps that the mean rate is computed from


@dataclass(frozen=True)
class Progress:
    """The progress of a training stage."""

    step: int
    total: int | None
    """Steps of the stage; None while the length is not known."""
    loss: float | None
    samples_per_second: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class Status:
    """One run on one screen."""

    run: str
    state: str
    """running; complete; failed; stopped; interrupted: killed; idle: the requested stages are
    complete, later stages are not; new: no command has started."""
    stage: str | None
    """The stage that runs, or the next stage; None if all stages are complete."""
    since: float | None
    """Start of the latest command (seconds since 1970)."""
    stages: dict[str, str]
    """State by stage: complete, outdated (input files have changed), to continue, to do."""
    inputs: tuple[str, ...]
    """The input files that have changed since the data was prepared."""
    training: Progress | None
    """Progress of ``stage``, if it is a training that has logged a step."""
    lists: tuple[int, int] | None
    """If ``stage`` is recommend and has begun: finished parts of the lists, and all parts."""
    checkpoint: str | None
    """Name of the newest complete checkpoint of ``stage``."""
    checkpoint_age_s: float | None
    restarts: int
    """Restarts of worker groups in all training stages together."""
    error: str | None
    """The error that ended the latest command."""


def run(run_or_job: str, as_json: bool) -> None:
    """Print the status of a run.

    Args:
        run_or_job: folder or URL of the run, or its job file.

    Raises:
        RunFolderError: there is no run.
    """
    status = read(run_or_job)
    if as_json:
        print(json.dumps(asdict(status), indent=2))
    else:
        Console(highlight=False).print(_screen(status))


def read(run_or_job: str) -> Status:
    """The status of a run; arguments and errors as for :func:`run`."""
    job, folder, inputs_at = open_run(run_or_job)
    steps = progress(job, folder, [], inputs_at=inputs_at)
    current = next((s.stage for s in steps if s.state not in ("complete", "outdated")), None)
    noted = (folder.root / STATE).read_json() if (folder.root / STATE).exists() else {}
    section = job.trainings().get(current or "")
    newest = _newest_checkpoint(folder.root / current) if section and current else None
    return Status(
        run=str(folder.root),
        state=_state(folder, noted, done=current is None),
        stage=current,
        since=noted.get("since"),
        stages={step.stage: step.state for step in steps},
        inputs=tuple(note for step in steps for note in step.notes),
        training=_training(job, folder, current, section) if section and current else None,
        lists=Parts(folder.recommend).progress() if current == "recommend" else None,
        checkpoint=newest[0] if newest else None,
        checkpoint_age_s=None if newest is None else round(time.time() - newest[1], 1),
        restarts=sum(_restarts(folder.root / stage / "starts.json") for stage in job.trainings()),
        error=noted.get("error"),
    )


def open_run(run_or_job: str) -> tuple[RunConfig, RunFolder, str | None]:
    """The job, its run folder, and the folder where its relative paths begin (None: here).

    Raises:
        RunFolderError: there is no run.
    """
    if run_or_job.endswith((".yaml", ".yml")) and Path(run_or_job).is_file():
        job = load_job(run_or_job)
        folder = RunFolder.of_job(job)
        if folder.job.exists():
            return job, folder, None
    else:
        folder = RunFolder.at(Folder.open(run_or_job))
        if folder.job.exists():
            job = parse_job(folder.job.read_bytes(), where=str(folder.job))
            with suppress(ShardError):
                return job, folder, Manifest.read(folder.prepare).inputs_from
            return job, folder, None
    raise RunFolderError(
        "no run here", where=str(folder.root), rule="a run folder has a job.yaml",
        fix="give the folder STORAGE/NAME of a run that was started, or its job file",
    )  # fmt: skip


def _state(folder: RunFolder, noted: dict[str, Any], *, done: bool) -> str:
    state = str(noted.get("state", "new"))
    if state == "running" and folder.root.is_local and not _is_locked(folder):
        return "interrupted"
    return "complete" if done and state != "running" else state


def _is_locked(folder: RunFolder) -> bool:
    """Whether a process holds the lock of the (local) run folder."""
    lock = Path(folder.root.path, ".lock")
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _training(job: RunConfig, folder: RunFolder, stage: str, section: Training) -> Progress | None:
    log = read_metrics(folder.training(stage))
    if not log:
        return None
    step, total = int(log[-1]["step"]), _total(job, folder, stage, section)
    rates = [m["samples_per_second"] for m in log[-_RECENT:] if m.get("samples_per_second")]
    rate = len(rates) / sum(1 / r for r in rates) if rates else None
    left = None if rate is None or total is None else (total - step) * section.batch_size / rate
    losses = [m["loss"] for m in log if m.get("loss") is not None]
    return Progress(step, total, losses[-1] if losses else None, rate, left)


def _total(job: RunConfig, folder: RunFolder, stage: str, section: Training) -> int | None:
    if section.steps is not None:
        return section.steps
    try:
        mix = open_mix(job, stage, folder, Manifest.load(folder.prepare))
    except P5Error:  # not prepared, or a data set of the mix is out of reach
        return None
    return total_steps(section, mix.own.order)


def _newest_checkpoint(stage: Folder) -> tuple[str, float] | None:
    """Name and time of the newest complete checkpoint."""
    for name in reversed((stage / "checkpoints").children()):
        marker = stage / "checkpoints" / name / "complete.json"
        if name.startswith("step-") and marker.exists():
            made = marker.fs.get_file_info(marker.path).mtime
            return name, made.timestamp() if made is not None else time.time()
    return None


def _restarts(starts: Folder) -> int:
    return max(len(starts.read_json()) - 1, 0) if starts.exists() else 0


def _screen(status: Status) -> str:
    colour = {"running": "green", "complete": "green", "failed": "red"}.get(status.state, "yellow")
    since = ""
    if status.since is not None:
        moment = datetime.fromtimestamp(status.since, timezone.utc).astimezone()
        since = f"  last started {moment:%Y-%m-%d %H:%M:%S}"
    lines = [f"[bold]{escape(status.run)}[/bold]", f"[{colour}]{status.state}[/]{since}"]
    for stage, state in status.stages.items():
        mark = "→" if stage == status.stage else " "
        lines.append(f" {mark} {stage:<20} {state}")
        if stage == "prepare":
            lines += [f"   input files {escape(note)}" for note in status.inputs]
    training = status.training
    if training is not None:
        of = f" of {training.total:,}" if training.total is not None else ""
        share = f" ({training.step / training.total:.0%})" if training.total else ""
        loss = f", loss {training.loss:.4f}" if training.loss is not None else ""
        lines.append(f"step        {training.step:,}{of}{share}{loss}")
        if training.samples_per_second is not None:
            lines.append(f"rate        {training.samples_per_second:,.0f} histories/s")
        if training.seconds_left is not None:
            lines.append(f"time left   {_duration(training.seconds_left)}")
    if status.lists is not None:
        done, total = status.lists
        lines.append(f"lists       {done:,} of {total:,} parts")
    if status.checkpoint is not None and status.checkpoint_age_s is not None:
        lines.append(f"checkpoint  {status.checkpoint}, {_duration(status.checkpoint_age_s)} ago")
    lines.append(f"restarts    {status.restarts}")
    if status.error is not None:
        lines.append(f"[red]last error[/]  {escape(status.error)}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
