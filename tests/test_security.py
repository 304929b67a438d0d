"""Content of storage or of a job file can neither run code nor lead out of its folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from p5dist.data.manifest import Manifest
from p5dist.errors import ShardError
from tests.small_data import small_job, write_small_data

PACKAGE = Path(__file__).parent.parent / "p5dist"
UNPICKLES = {"environment/processes.py"}  # values that its own processes hand each other
FORBIDDEN = {
    "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "torch.load",
    "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "pandas.read_pickle",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip


def _calls(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    imported = {alias.asname or alias.name: f"{node.module}.{alias.name}"
                for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                for alias in node.names}  # fmt: skip
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found.add(imported.get(name, name))
    return found


def test_nothing_is_unpickled() -> None:
    found = {
        str(path.relative_to(PACKAGE)): hits
        for path in PACKAGE.rglob("*.py")
        if (hits := _calls(path) & FORBIDDEN)
    }
    assert set(found) <= UNPICKLES, found


def test_numpy_files_are_read_without_pickle() -> None:
    for path in PACKAGE.rglob("*.py"):
        for call in re.findall(r"np\.load\((?:[^()]|\([^()]*\)|\((?:[^()]|\([^()]*\))*\))*\)",
                               path.read_text()):  # fmt: skip
            assert "allow_pickle=False" in call, f"{path}: {call}"


@pytest.mark.parametrize(
    "path", ["../other/part-0.parquet", "shards/../../x.parquet", "/etc/passwd", "s3://other/x"]
)
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path, path: str) -> None:
    folder = write_small_data(small_job(tmp_path))
    place = folder.prepare / "manifest.json"
    text = place.read_bytes().decode()
    place.write_text(text.replace("shards/part-00000.parquet", path))
    with pytest.raises(ShardError, match="leaves the prepare folder"):
        Manifest.load(folder.prepare)
    place.write_text(text)
    Manifest.load(folder.prepare)


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "..", ".hidden"])
def test_a_run_cannot_be_named_out_of_its_storage(tmp_path: Path, name: str) -> None:
    from p5dist.errors import ConfigError

    with pytest.raises(ConfigError, match="name"):
        small_job(tmp_path, f"name={name!r}")
