"""Code outside a registered object does not switch on its kind: the object itself answers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from p5dist.config.registry import ATTRIBUTES, ENCODERS, FORMATS, OBJECTIVES, TASKS

PACKAGE = Path(__file__).parent.parent / "p5dist"
REGISTRIES = (OBJECTIVES, TASKS, ENCODERS, ATTRIBUTES, FORMATS)
CLASSES = {path for registry in REGISTRIES for path in registry.ours.values()}
ASKED = {"kind", "format"}

# Not registered: few, closed, and told apart in one place each.
ALLOWED = {
    "split": "rules of prepare.split",
    "schedule": "shapes of the learning rate",
    "optimizer": "of the embedding tables: what FBGEMM has",
    "dtype": "of NumPy, another kind altogether",
}
"""Before ``.kind``, the last name of what is asked."""


def own_folder(path: Path) -> set[str]:
    """The registered classes that a file may know: its own, or those of the folder it is in."""
    module = ".".join(("p5dist", *path.relative_to(PACKAGE).with_suffix("").parts))
    module = module.removesuffix(".__init__")
    own = set()
    for kind in CLASSES:
        home = kind.partition(":")[0]
        there = PACKAGE.joinpath(*home.split(".")[1:])
        if module == home or (there.is_dir() and module.startswith(f"{home}.")):
            own.add(kind)
    return own


def asks_for_kind(node: ast.expr) -> bool:
    """``x.kind``, ``x.format``, unless x is something that is not registered."""
    if not (isinstance(node, ast.Attribute) and node.attr in ASKED):
        return False
    of = node.value
    name = of.attr if isinstance(of, ast.Attribute) else of.id if isinstance(of, ast.Name) else ""
    return name not in ALLOWED


def switches(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """What asks for a kind.

    Args:
        known: registered classes that the file may know.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            if any(asks_for_kind(side) for side in (node.left, *node.comparators)):
                yield f"line {node.lineno}: compares a kind: {ast.unparse(node)}"
        elif isinstance(node, ast.Match) and asks_for_kind(node.subject):
            yield f"line {node.lineno}: matches a kind: {ast.unparse(node.subject)}"
        elif isinstance(node, ast.Subscript) and asks_for_kind(node.slice):
            yield f"line {node.lineno}: looks up by a kind: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                if f"{node.module}:{name.name}" in CLASSES - known:
                    yield f"line {node.lineno}: imports the registered class {name.name}"


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nobody_else_switches_on_a_kind(path: Path) -> None:
    known = own_folder(path)
    found = list(switches(ast.parse(path.read_text()), known))
    assert not found, f"ask the object instead, with a method of its base class: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "job.model.encoder.kind == 'transformer'",
        "if task.kind in ('rating', 'click'): pass",
        "'multi' != task.kind",
        "match task.kind:\n    case 'rating': pass",
        "WAYS[source.format](source)",
        "from p5dist.tasks.click import Click",
        "from p5dist.models.encoders.mean import Mean\nisinstance(x, Mean)",
    ],
)
def test_a_switch_is_found(code: str) -> None:
    assert list(switches(ast.parse(code), set()))


def test_what_is_no_switch() -> None:
    code = "split.kind == 'ratio'\nraise ValueError(f'{task.kind} …')\nfrom a import Click"
    assert not list(switches(ast.parse(code), set()))
    code = "from p5dist.tasks.click import Click"
    assert not list(switches(ast.parse(code), own_folder(PACKAGE / "tasks/click/module.py")))
    assert own_folder(PACKAGE / "tasks/clicks.py") == set()
    assert len(own_folder(PACKAGE / "prepare/formats/delimited.py")) == 2
