"""The index of errors, from the code: every class, and every message with its rule and fix."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from docs.site.repository import ROOT
from docs.site.text import plain, source
from p5dist import errors
from p5dist.errors import P5Error

PAGE = "reference/errors.md"
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, P5Error)
}
RULES = "ValueError"
"""Raised by the classes of the job file; the user sees a ConfigError with the key and its value."""
JOB_FILE = ("config", "models", "prepare/attribute_kinds", "prepare/formats", "tasks")


@dataclass(frozen=True)
class Raised:
    """A message that the code has.

    Args:
        kind: name of the class.
        parts: what, where, rule and fix, as far as the code has them; values of the run are in «».
    """

    kind: str
    parts: dict[str, str]
    file: Path
    line: int


def raised() -> list[Raised]:
    """All messages, in the order of files and lines."""
    found = []
    for file in sorted((ROOT / "p5dist").rglob("*.py")):
        inside = file.relative_to(ROOT / "p5dist").as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            if name == RULES and not inside.startswith(JOB_FILE):
                continue
            if name not in CLASSES and name != RULES:
                continue
            parts = {"what": _text(node.args[0])}
            for keyword in node.keywords:
                if keyword.arg in ("where", "rule", "fix"):
                    parts[keyword.arg] = _text(keyword.value)
            if parts["what"].startswith("«") and "rule" not in parts and "fix" not in parts:
                continue  # an error that is passed on
            found.append(Raised(name, parts, file, node.lineno))
    return found


def files() -> set[Path]:
    """The files that the page links to."""
    return {one.file for one in raised()} | {ROOT / "p5dist/errors.py"}


def page() -> str:
    """The page with every class and every message."""
    found = raised()
    text = "# Errors\n\nEvery mistake of a user and every fault of the surroundings raises a "
    text += "subclass of `p5dist.P5Error`. The message says what happened, where, the value found "
    text += "there, the rule, and what to change. This index has every message in the code; «» "
    text += "stands for a part that depends on the run.\n\n"
    text += f"```text\n{_tree()}\n```\n"
    for name, kind in CLASSES.items():
        own = [one for one in found if one.kind == name]
        text += f"\n## {name}\n\n{plain(kind.__doc__)}\n"
        text += "".join(map(_entry, sorted(own, key=lambda one: one.parts["what"].lower())))
    text += "\n## Rules of the job file\n\nA setting that breaks one of these rules is a "
    text += "`ConfigError` with the key, the value and the line of the file.\n"
    rules = [one for one in found if one.kind == RULES]
    text += "".join(map(_entry, sorted(rules, key=lambda one: one.parts["what"].lower())))
    return text


def _entry(one: Raised) -> str:
    place = one.file.relative_to(ROOT).as_posix()
    text = f"\n- **{_markdown(one.parts['what'])}** "
    text += source(one.file, one.line, PAGE, f"<small>{place}</small>")
    for part in ("where", "rule", "fix"):
        if part in one.parts:
            text += f"\n    - {part}: {_markdown(one.parts[part])}"
    return text + "\n"


def _tree() -> str:
    lines = (errors.__doc__ or "").split("::\n", 1)[1].split("\n\nAll of them")[0]
    return "\n".join(line.removeprefix("    ") for line in lines.strip("\n").splitlines())


def _text(node: ast.expr) -> str:
    """The text of an expression; what is known in a run only is «name»."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            f"«{_name(part.value)}»" if isinstance(part, ast.FormattedValue) else _text(part)
            for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body)} / {_text(node.orelse)}"
    return f"«{_name(node)}»"


def _name(node: ast.expr) -> str:
    """A short word for an expression."""
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_")
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Constant):
        return str(node.value)
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute)]
    return _name(names[-1]) if names else "…"


def _markdown(text: str) -> str:
    """Text as it is, with nothing that Markdown reads as its own."""
    text = text.replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]#|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
