"""The pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.blocks import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
_HIDDEN_OR_MADE = ("runs", "build", "dist", "node_modules")
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(
        part.startswith(".") or part in _HIDDEN_OR_MADE for part in page.relative_to(ROOT).parts
    )
)
"""Every page of the repository."""
MANUAL = [README, *sorted(DOCS.rglob("*.md"))]
"""The pages whose code blocks are tested."""


def name_of(page: Path) -> str:
    """The path of a page, as the name of a test."""
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
