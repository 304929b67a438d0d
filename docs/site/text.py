"""Pieces of Markdown that the generated pages share."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from docs.site.repository import place

ROLE = re.compile(r":(?:\w+:)?\w+:`~?\.?([^`]+)`")
"""A role of a docstring: ``:func:`.record```."""


def plain(docstring: str | None) -> str:
    """A docstring as Markdown in one line, without its parts about arguments."""
    text = ROLE.sub(r"`\1`", inspect.cleandoc(docstring or "").split("\n\nArgs:")[0])
    return " ".join(text.replace("``", "`").split())


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", "<br>")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """Text as code, whatever quotes it has."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def source(file: Path, line: int, at: str, words: str) -> str:
    """A link to a line of a file, from the page ``at``; which has a page with
    the text of the file."""
    page = Path(place(file, made=False)).with_suffix("").as_posix() + ".html"
    target = Path(os.path.relpath(page, str(Path(at).parent))).as_posix()
    return f'<a href="{target}#__codelineno-0-{line}">{words}</a>'
