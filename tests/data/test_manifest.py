from __future__ import annotations

from pathlib import Path

import pytest

from p5dist.data.manifest import Manifest, ShardFile
from p5dist.errors import ShardError
from p5dist.storage import Folder


@pytest.fixture
def prepare(tmp_path: Path) -> Folder:
    """A prepare folder with one shard of 100 bytes."""
    folder = Folder.open(str(tmp_path))
    (folder / "shards/part-00000.parquet").write_bytes(bytes(100))
    shard = ShardFile(path="shards/part-00000.parquet", bytes=100, first_row=0, groups=(2, 1))
    Manifest(
        fingerprint="f", shards=(shard,), rows_in=5, rows_kept=4, rows_rejected={"null_user": 1},
        rows_by_split={"train": 4, "validation": 0, "test": 0}, users=3,
        users_by_split={"train": 3, "validation": 0, "test": 0}, items=2,
        longest_history=2, split="by hand",
    ).save(folder)  # fmt: skip
    return folder


def test_it_comes_back_as_it_was_saved(prepare: Folder) -> None:
    manifest = Manifest.load(prepare)
    assert manifest.histories == manifest.shards[0].rows == 3
    manifest.save(prepare)
    assert Manifest.load(prepare) == manifest


@pytest.mark.parametrize("size", [99, 101, 0, None])
def test_a_shard_that_is_not_whole_is_found(prepare: Folder, size: int | None) -> None:
    shard = prepare / "shards/part-00000.parquet"
    shard.remove()
    if size is not None:
        shard.write_bytes(bytes(size))
    with pytest.raises(ShardError, match="missing" if size is None else "truncated") as error:
        Manifest.load(prepare)
    assert error.value.where == str(shard)
    assert "100 bytes" in str(error.value) and "prepare stage again" in str(error.value)


def test_without_a_manifest_there_is_no_data(prepare: Folder) -> None:
    (prepare / "manifest.json").remove()
    with pytest.raises(ShardError, match="no prepared data here"):
        Manifest.load(prepare)


def test_another_schema_version_is_refused(prepare: Folder) -> None:
    place = prepare / "manifest.json"
    place.write_json(place.read_json() | {"schema_version": 99})
    with pytest.raises(ShardError, match="another schema version"):
        Manifest.load(prepare)


@pytest.mark.parametrize("text", ["", "{", '{"users": 1}'])
def test_a_broken_manifest_is_no_manifest(prepare: Folder, text: str) -> None:
    (prepare / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match="cannot be read"):
        Manifest.load(prepare)
