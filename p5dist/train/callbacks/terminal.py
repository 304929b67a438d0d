"""The events of a stage on the terminal of the driver."""

from __future__ import annotations

import logging

from rich.progress import Progress

from p5dist.environment.console import STEPS
from p5dist.environment.redact import redact_text
from p5dist.observe.events import (
    Callback,
    Event,
    Failed,
    Logged,
    Saved,
    Skipped,
    Started,
    Stopping,
    Validated,
)


class ProgressBar(Callback):
    """Step, rate, loss and time left."""

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress = progress
        self._task = progress.add_task(stage, total=None, note="starting workers")
        self._starts = 0
        self._rate = self._validation = ""
        self._stopping = False

    def on(self, event: Event) -> None:
        match event:
            case Started():
                self._starts += 1
                self._progress.update(self._task, completed=event.step, total=event.total)
            case Logged():
                if event.loss is not None:
                    self._rate = f"loss {event.loss:.4f}  {event.samples_per_second:,.0f}/s  "
                self._progress.update(self._task, completed=event.step)
            case Validated():
                self._validation = f"{event.metric} {event.value:.4f}"
            case Stopping():
                self._stopping = True
            case _:
                return
        restart = f"restart {self._starts - 1}  " if self._starts > 1 else ""
        note = f"{restart}{self._rate}{self._validation}"
        note = "stopping after a checkpoint" if self._stopping else note
        self._progress.update(self._task, note=note)


class LogLines(Callback):
    """One line per event; lines of events that :class:`ProgressBar` also shows have a separate
    logger."""

    def __init__(self, run: str, stage: str) -> None:
        self._stage = stage
        self._log = logging.LoggerAdapter(logging.getLogger("p5dist"), {"run": run})
        self._steps = logging.LoggerAdapter(logging.getLogger(STEPS), {"run": run})

    def on(self, event: Event) -> None:
        stage = self._stage
        match event:
            case Started(step, total, workers):
                group = "1 worker" if workers == 1 else f"{workers} workers"
                self._steps.info(f"{stage}: {group} started at step {step:,} of {total:,}")
            case Validated(step, metric, value):
                self._steps.info(f"{stage}: {metric} {value:.4f} at step {step:,}")
            case Saved(step, seconds):
                self._steps.info(f"{stage}: checkpoint {step:,} complete in {seconds:.2f} s")
            case Skipped(step):
                self._log.warning(f"{stage}: step {step:,} skipped, its loss is not finite")
            case Failed(reason):
                self._log.warning(redact_text(f"{stage}: {reason}"))
            case Stopping():
                self._steps.info(f"{stage}: asked to stop, after a checkpoint")
