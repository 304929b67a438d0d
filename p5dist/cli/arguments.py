"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from p5dist.config import RunConfig

RUN = "Run a job"
STAGES = "One stage of a job"
LOOK = "Look at jobs and runs"
USE = "Use a trained model"
DATA = "Data"
CLUSTER = "Clusters"
SETUP = "Installation"
"""Groups of commands in the help."""

Job = Annotated[
    Path,
    typer.Argument(
        metavar="JOB.yaml", help="The job file, or the name of a job of p5dist, such as ml-100k."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[a.b=1 …]", help="Settings that replace settings of the job file."),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STAGE …] [a.b=1 …]",
        help="Stages (none: all), and settings that replace settings of the job file.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Delete the results of the chosen and of all later stages first."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def load_checked(job: Path, overrides: list[str] | None) -> RunConfig:
    """The job; settings without effect are named on stderr."""
    from p5dist.config import load_job
    from p5dist.config.notes import notes

    loaded = load_job(job, overrides)
    for note in notes(loaded):
        typer.echo(f"no effect: {note}", err=True)
    return loaded


def split_words(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Split words into stages and settings ``a.b=1``."""
    words = words or []
    return [w for w in words if "=" not in w], [w for w in words if "=" in w]
