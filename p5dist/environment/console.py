"""What a person sees on the terminal: log lines, progress, tables. All of it goes to stderr, so
that ``--json`` has stdout for itself."""

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
"""Logger of events that a progress bar shows as well."""


class _Headings(RegexHighlighter):
    highlights = [r"^(?P<bold>\d+/\d+ \S+)"]


def show_log() -> None:
    """Show the lines of the logger ``p5dist``: above the progress bar on a terminal, which leaves
    out what the bar shows; with time, level and run elsewhere."""
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
    logger.propagate = False  # packages that are imported later give the root logger a handler


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
