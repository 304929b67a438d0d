"""What the driver does with the news of a stage: progress, log lines, errors.log, tracking."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.progress import Progress

from p5dist.environment.console import STEPS
from p5dist.environment.redact import redact_text
from p5dist.errors import P5Error
from p5dist.observe.listener import Listener
from p5dist.storage import Folder
from p5dist.train.failures import ERRORS

Metrics = Callable[[dict[str, float], int], None]
"""Takes numbers by name, and the step after which they were true."""


class Follower(Listener):
    """Hears in the driver what the first worker tells, and what happens to the workers."""

    def started(self, step: int, total: int, workers: int, plan: dict[str, Any]) -> None:
        """The worker group begins after ``step`` of ``total`` steps."""

    def failed(self, reason: str, details: dict[int, str]) -> None:
        """Workers failed: one line, and by rank a traceback or what Ray knows."""

    def stopping(self) -> None:
        """The job was asked to end after a checkpoint."""


class Summary(Follower):
    """What the result of a stage says about its workers."""

    def __init__(self) -> None:
        self.starts = 0
        self.workers: int | None = None
        self.plan: dict[str, Any] | None = None

    def started(self, step: int, total: int, workers: int, plan: dict[str, Any]) -> None:
        self.starts += 1
        self.workers, self.plan = workers, plan


class Bar(Follower):
    """Step, rate, loss and time left."""

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress = progress
        self._task = progress.add_task(stage, total=None, note="starting workers")
        self._starts = 0
        self._rate = self._validation = ""
        self._stopping = False

    def started(self, step: int, total: int, workers: int, plan: dict[str, Any]) -> None:
        self._starts += 1
        self._progress.update(self._task, completed=step, total=total)
        self._note()

    def log(self, values: dict[str, Any]) -> None:
        if values["loss"] is not None:
            self._rate = f"loss {values['loss']:.4f}  {values['samples_per_second']:,.0f}/s  "
        self._progress.update(self._task, completed=values["step"])
        self._note()

    def validated(self, step: int, metric: str, value: float) -> None:
        self._validation = f"{metric} {value:.4f}"
        self._note()

    def stopping(self) -> None:
        self._stopping = True
        self._note()

    def _note(self) -> None:
        restart = f"restart {self._starts - 1}  " if self._starts > 1 else ""
        note = f"{restart}{self._rate}{self._validation}"
        note = "stopping after a checkpoint" if self._stopping else note
        self._progress.update(self._task, note=note)


class LogLines(Follower):
    """A line an event; those that :class:`Bar` shows as well go to a logger of their own."""

    def __init__(self, run: str, stage: str) -> None:
        self._stage = stage
        self._log = logging.LoggerAdapter(logging.getLogger("p5dist"), {"run": run})
        self._steps = logging.LoggerAdapter(logging.getLogger(STEPS), {"run": run})

    def started(self, step: int, total: int, workers: int, plan: dict[str, Any]) -> None:
        group = "1 worker" if workers == 1 else f"{workers} workers"
        self._steps.info(f"{self._stage}: {group} started at step {step:,} of {total:,}")

    def validated(self, step: int, metric: str, value: float) -> None:
        self._steps.info(f"{self._stage}: {metric} {value:.4f} at step {step:,}")

    def saved(self, step: int, seconds: float) -> None:
        self._steps.info(f"{self._stage}: checkpoint {step:,} complete in {seconds:.2f} s")

    def skipped(self, step: int, rows: list[list[int]]) -> None:
        self._log.warning(f"{self._stage}: step {step:,} skipped, its loss is not finite")

    def failed(self, reason: str, details: dict[int, str]) -> None:
        self._log.warning(redact_text(f"{self._stage}: {reason}"))

    def stopping(self) -> None:
        self._steps.info(f"{self._stage}: asked to stop, after a checkpoint")


class ErrorsFile(Follower):
    """Appends failures to errors.log of the stage."""

    def __init__(self, stage: Folder) -> None:
        self._place = stage / ERRORS

    def failed(self, reason: str, details: dict[int, str]) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        parts = [f"{now} {reason}\n"]
        parts += [f"\nworker {rank}:\n{text.rstrip()}\n" for rank, text in sorted(details.items())]
        with suppress(P5Error, OSError):  # storage may be what failed, and training may go on
            before = self._place.read_bytes().decode() if self._place.exists() else ""
            self._place.write_text(before + redact_text("".join(parts)) + "\n")


class Tracked(Follower):
    """Numbers by step, named after the stage."""

    def __init__(self, stage: str, metrics: Metrics) -> None:
        self._stage = stage
        self._metrics = metrics

    def log(self, values: dict[str, Any]) -> None:
        names = ("loss", "lr", "samples_per_second")
        self._tell({n: values[n] for n in names if values[n] is not None}, values["step"])

    def validated(self, step: int, metric: str, value: float) -> None:
        self._tell({f"validation/{metric}": value}, step)

    def saved(self, step: int, seconds: float) -> None:
        self._tell({"checkpoint_seconds": seconds}, step)

    def _tell(self, values: dict[str, float], step: int) -> None:
        self._metrics({f"{self._stage}/{name}": value for name, value in values.items()}, step)
