"""The code blocks of the pages, and the marker before each: an HTML comment, which readers do not
see.

| marker | meaning |
|---|---|
| ``run`` | a test runs the commands, or the Python, in the folder of a small shop |
| ``slow`` | the same in a slow test |
| ``file: NAME`` | the content of a file of this folder |
| ``synopsis`` | commands as ``--help`` has them: their names and options exist |
| ``tested: FILE`` | another test has it |
| ``needs: REASON`` | cannot run here |
| ``example: FILE`` | lines of a file of tests/example_package |
| ``kinds`` | a class that tests/docs/test_pages.py uses |
| ``picture`` | text for people |

Without a marker, a block of YAML is a job or a part of one, which must be valid, and a block of
``text``, ``console`` or ``json`` is what a program prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MARKER = re.compile(
    r"<!-- (run|slow|file|synopsis|needs|tested|example|kinds|picture)(?:: (.*?))? -->"
)
_FENCE = re.compile(r"^ *```(\w*)")


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        language: of a fence; ``sh`` for a block that is indented.
        marker: the word of the marker; empty without one.
        value: what follows the word.
    """

    page: Path
    line: int
    language: str
    text: str
    marker: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The commands, without the words beside them; a line that ends in ``\\`` goes on."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [re.split(r" {2,}(?=\S)", line.strip())[0] for line in lines if line.strip()]


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page, in their order."""
    lines = page.read_text().splitlines()
    found, marker, value, number = [], "", "", 0
    while number < len(lines):
        line = lines[number]
        if match := MARKER.fullmatch(line.strip()):
            marker, value = match[1], match[2] or ""
        elif match := _FENCE.match(line):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
            text = "\n".join(lines[number + 1 : end]) + "\n"
            found.append(Block(page, number + 1, match[1], text, marker, value))
            marker, value, number = "", "", end
        elif _begins_indented(lines, number):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(one.removeprefix("    ") for one in lines[number:end]).rstrip() + "\n"
            found.append(Block(page, number + 1, "sh", text, marker, value))
            marker, value, number = "", "", end - 1
        elif line.strip():
            marker, value = "", ""
        number += 1
    return found


def _begins_indented(lines: list[str], number: int) -> bool:
    """Whether an indented block begins: four spaces after an empty line, outside of a list."""
    if not lines[number].startswith("    ") or (number and lines[number - 1].strip()):
        return False
    before = [line for line in lines[:number] if line.strip()]
    return not (before and re.match(r"\s*([-*]|\d+\.) |  ", before[-1]))
