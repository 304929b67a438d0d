"""Files outside of docs/ as pages of the site: links to them work on GitHub and offline."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
MADE = {
    "README.md": "README.md",
    "p5dist/__init__.py": "reference/api.md",
    "p5dist/cli/main.py": "reference/command-line.md",
    "p5dist/config/run.py": "reference/settings/README.md",
    "p5dist/errors.py": "reference/errors.md",
}
"""Generated pages that stand for a file of the repository."""
LANGUAGES = {
    ".cfg": "ini", ".html": "html", ".j2": "jinja", ".py": "python",
    ".sh": "bash", ".toml": "toml", ".txt": "text", ".yaml": "yaml", ".yml": "yaml",
    "Makefile": "makefile", "Dockerfile": "docker", "run": "bash", "LICENSE": "text",
}  # fmt: skip
AS_IT_IS = {".svg", ".png", ".ipynb", ".json"}
"""Files that the site has unchanged."""
_NOT_SEARCHED = "---\nsearch: {exclude: true}\n---\n\n"
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def place(file: Path, *, made: bool = True) -> str:
    """The page or file of the site, relative to docs/, that a file of the repository has.

    Args:
        made: a generated page may stand for the file; false: a page with its text.
    """
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS).as_posix()
    path = file.relative_to(ROOT).as_posix()
    if made and path in MADE:
        return MADE[path]
    if file.is_dir():
        return f"repository/{path}/README.md"
    if file.suffix in (".md", *AS_IT_IS):
        return f"repository/{path}"
    return f"repository/{path}.md"


def linked(text: str, file: Path) -> Iterable[tuple[str, Path]]:
    """The links of a page to files of the repository: the words of the link, and the file."""
    for part in _FENCED.split(text):
        if part.startswith("```"):
            continue
        for target in _LINK.findall(part):
            path = target.partition("#")[0]
            if not path or "://" in target or target.startswith("mailto:"):
                continue
            found = Path(os.path.normpath(file.parent / path))
            if found.exists() and found.is_relative_to(ROOT):
                yield target, found


def rewritten(text: str, file: Path, at: str) -> str:
    """The text of a page with links to files of the repository as links to pages of the site.

    Args:
        file: the page as a file of the repository.
        at: the place of the page on the site.
    """
    places = {}
    for target, found in linked(text, file):
        relative = os.path.relpath(place(found), str(Path(at).parent))
        _, sharp, anchor = target.partition("#")
        places[target] = Path(relative).as_posix() + sharp + anchor
    parts = _FENCED.split(text)
    for number, part in enumerate(parts):
        if not part.startswith("```"):
            parts[number] = _LINK.sub(lambda m: places.get(m[1], m[1]), part)
    return "".join(parts)


def page_of(file: Path) -> str:
    """The text of the page of a file outside of docs/, or of a folder."""
    name = file.relative_to(ROOT).as_posix()
    if file.is_dir():
        entries = sorted(entry for entry in file.iterdir() if _shown(entry))
        lines = [
            f"- [{entry.name}]({_from(file, entry)})" if _has_pages(file) else f"- {entry.name}"
            for entry in entries
        ]
        return f"# {name}/\n\n" + "\n".join(lines) + "\n"
    text = file.read_text()
    if file.suffix == ".md":
        return rewritten(text, file, place(file))
    language = LANGUAGES.get(file.suffix) or LANGUAGES.get(file.name, "text")
    fence = "````" if "```" in text else "```"
    return f'{_NOT_SEARCHED}# {name}\n\n{fence}{language} linenums="1"\n{text.rstrip()}\n{fence}\n'


def closure(first: Iterable[Path]) -> set[Path]:
    """The files outside of docs/ that pages link to, and those that their pages link to."""
    found: set[Path] = set()
    left = [file for file in first if not file.is_relative_to(DOCS)]
    while left:
        file = left.pop()
        if file in found or file.relative_to(ROOT).as_posix() in MADE:
            continue
        found.add(file)
        if file.is_dir():
            more = [entry for entry in file.iterdir() if _shown(entry)] if _has_pages(file) else []
        elif file.suffix == ".md":
            more = [target for _, target in linked(file.read_text(), file)]
        else:
            more = []
        left += [one for one in more if not one.is_relative_to(DOCS)]
    return found


def _shown(entry: Path) -> bool:
    return not entry.name.startswith((".", "__pycache__")) and entry.suffix not in (
        ".jsonl",
        ".pyc",
    )


def _has_pages(folder: Path) -> bool:
    """Whether the files of a folder have pages, and not only their names."""
    return folder.relative_to(ROOT).parts[0] != "p5dist"


def _from(folder: Path, entry: Path) -> str:
    return Path(os.path.relpath(place(entry), str(Path(place(folder)).parent))).as_posix()
