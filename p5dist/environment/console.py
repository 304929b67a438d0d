"""Terminal output: log lines, progress bars, tables. All of it goes to stderr, so that stdout has
only the result of ``--json``."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.rule import Rule
from rich.text import Text

console = Console(stderr=True, highlight=False)

STEPS = "p5dist.steps"
"""Logger of events that a progress bar also shows."""
EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""

_BEGINS = re.compile(r"\d+/\d+ \S+ (started|continues)$")
"""The line with which a stage begins."""


def no_colours() -> None:
    """Turn colours off, also in the help and in processes that are started later."""
    os.environ["NO_COLOR"] = "1"
    console.no_color = True


class _Terminal(RichHandler):
    """Log lines above the progress bar; a stage begins with a heading."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if _BEGINS.match(message):
            title = Text(message, style="bold")
            console.print(Rule(title, align="left", style="dim", characters="─"))
            return
        super().emit(record)


def show_log() -> None:
    """Show the lines of the logger ``p5dist``. On a terminal, above the progress bar and without
    the lines of STEPS; elsewhere with time, level and run."""
    handler: logging.Handler
    if console.is_terminal:
        handler = _Terminal(
            console=console, show_time=False, show_level=False, show_path=False, highlighter=None
        )
        handler.addFilter(lambda record: record.name != STEPS)
    else:
        handler = logging.StreamHandler(sys.stderr)
        line = "%(asctime)s %(levelname)s %(run)s: %(message)s"
        handler.setFormatter(logging.Formatter(line, defaults={"run": "p5dist"}))
    logger = logging.getLogger("p5dist")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False  # other packages add a handler to the root logger at import


class _Rate(ProgressColumn):
    """Units per second; nothing where the note of a task has a rate of its own."""

    def render(self, task: Task) -> Text:
        rate = _rate(task)
        return Text("" if rate is None or "/s" in task.fields["note"] else rate)


class _Lines(Progress):
    """Progress where there is no terminal: a line of the log every EVERY seconds.

    Args:
        unit: such as ``steps``.
    """

    def __init__(self, unit: str) -> None:
        super().__init__(console=console, disable=True)
        self._unit = unit
        self._last: dict[TaskID, float] = {}

    def update(self, task_id: TaskID, **values: Any) -> None:
        super().update(task_id, **values)
        self._show(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._show(task_id)

    def _show(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if now - self._last.setdefault(task_id, now) < EVERY:
            return
        self._last[task_id] = now
        task = self._tasks[task_id]
        total = "" if task.total is None else f"/{task.total:,.0f}"
        parts = [f"{task.description.strip()}: {task.completed:,.0f}{total} {self._unit}".rstrip()]
        rate, left = _rate(task), task.time_remaining
        parts += [] if rate is None else [rate]
        parts += [] if left is None else [f"{_clock(left)} left"]
        parts += [note] if (note := str(task.fields.get("note", "")).strip()) else []
        logging.getLogger("p5dist").info(", ".join(parts))


def _rate(task: Task) -> str | None:
    """Units per second; None before it is known."""
    speed = task.finished_speed or task.speed
    return None if not speed else f"{speed:,.{1 if speed < 10 else 0}f}/s"


def _clock(seconds: float) -> str:
    """1:02:03"""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def progress(unit: str = "") -> Progress:
    """A progress display: ``with progress("files") as p: t = p.add_task("read", total=8)``.

    ``p.update(t, note="loss 3.21")`` shows a text at the end of the line. Without a terminal, the
    log has a line every 30 seconds instead.
    """
    if not console.is_terminal:
        return _Lines(unit)
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        _Rate(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
