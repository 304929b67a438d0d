"""Terminal output: log lines, progress bars, tables. All of it goes to stderr, so that stdout has
only the result of ``--json``."""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)

STEPS = "p5dist.steps"
"""Logger of events that a progress bar also shows."""


class _Headings(RegexHighlighter):
    highlights = [r"^(?P<bold>\d+/\d+ \S+)"]


def show_log() -> None:
    """Show the lines of the logger ``p5dist``. On a terminal, above the progress bar and without
    the lines of STEPS; elsewhere with time, level and run."""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(
            console=console, show_time=False, show_level=False, show_path=False,
            highlighter=_Headings(),
        )  # fmt: skip
        handler.addFilter(lambda record: record.name != STEPS)
    else:
        handler = logging.StreamHandler(sys.stderr)
        line = "%(asctime)s %(levelname)s %(run)s: %(message)s"
        handler.setFormatter(logging.Formatter(line, defaults={"run": "p5dist"}))
    logger = logging.getLogger("p5dist")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False  # other packages add a handler to the root logger at import


def progress(unit: str = "") -> Progress:
    """A progress display: ``with progress("files") as p: t = p.add_task("read", total=8)``.

    ``p.update(t, note="loss 3.21")`` shows a text at the end of the line.
    """
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )
