"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Job = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[a.b=1 …]", help="Settings that replace the file's.")
]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[STAGE …] [a.b=1 …]", help="Stages (all) and settings."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Throw away what the stage, and later ones, made before.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def split_words(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Stages, and settings ``a.b=1``."""
    words = words or []
    return [w for w in words if "=" not in w], [w for w in words if "=" in w]
