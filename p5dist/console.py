"""What a person sees on the terminal: stage headings, progress, tables. All of it goes to stderr,
so that ``--json`` has stdout for itself."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)


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
        transient=not console.is_terminal,
    )
