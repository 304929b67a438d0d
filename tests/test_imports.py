"""The table of imports: imports go downwards only, and only some folders import heavy packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "p5dist"
JOB = str(PACKAGE.parent / "jobs/ml-100k.yaml")

# From the bottom up; a part imports lower lines only, not its neighbours.
LAYERS = (
    "errors",
    "config",
    "storage",
    "environment",
    "data",
    "datasets",
    "prepare feed",
    "models",
    "ranking",
    "tasks",
    "checkpoint",
    "inference",
    "observe",
    "train",
    "capacity report serving submit",
    "pipeline",
    "seeds shadows",
    "advance tuning forgetting",
    "cli",
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts.split()}
NEVER = {part: {"ray"} for part in ("data", "models", "tasks", "ranking", "checkpoint")}
NOT_AT_MODULE_LEVEL = {
    part: {"ray", "torch", "torchrec"} for part in ("config", "report", "submit")
}

FILES = sorted(PACKAGE.rglob("*.py"))


def _imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Full names of what import statements name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            inside = node.module == "p5dist"
            yield from (f"p5dist.{a.name}" for a in node.names) if inside else [node.module]


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    tree, part = ast.parse(path.read_text()), _part(path)
    everywhere = set(_imports(ast.walk(tree)))
    roots = {name.split(".")[0] for name in everywhere}
    at_module_level = {name.split(".")[0] for name in _imports(iter(tree.body))}
    assert not roots & NEVER.get(part, set())
    assert not at_module_level & NOT_AT_MODULE_LEVEL.get(part, set())
    if part == "__init__":  # names are imported when they are used
        assert "p5dist" not in at_module_level
        return
    assert part in LEVEL, f"say in LAYERS where {part} stands"
    for name in everywhere:
        if name.split(".")[0] == "p5dist" and "." in name and name != "p5dist.__version__":
            other = name.split(".")[1]
            assert other == part or LEVEL[other] < LEVEL[part], f"{part} may not import {name}"


@pytest.mark.parametrize(
    "code",
    [
        "import p5dist; p5dist.Job, p5dist.P5Error, p5dist.run",
        "import p5dist.config",
        f"from p5dist.config import load_job; load_job({JOB!r})",
        "import p5dist.report.stage",
        "import p5dist.environment.doctor, p5dist.datasets.public, p5dist.observe.status",
        "import p5dist.submit.show, p5dist.submit.local, p5dist.cli.cluster",
        "import p5dist.cli.main as cli, sys; sys.argv = ['p5dist', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as e: assert not e.code",
    ],
)
def test_starts_without_heavy_packages(code: str) -> None:
    check = "\nimport sys; print({'torch', 'ray', 'torchrec', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


def test_processes_of_ray_train_start_without_pytorch() -> None:
    """The controller and the monitor unpickle these before anything runs."""
    code = "import p5dist.train.handover, p5dist.train.failures, p5dist.train.monitor, sys\n"
    check = "print({'torch', 'torchrec', 'fbgemm_gpu'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
