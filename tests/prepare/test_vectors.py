"""Supplied vectors of items: the row of each id, what counts as no vector, and what is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.data.supplied import Supplied, has_vectors, vectors_of
from p5dist.errors import ConfigError, DataError
from p5dist.storage import RunFolder
from tests.prepare.runs import prepared

LOG = "user,item\n" + "".join(f"u{u},{i}\n" for u in range(4) for i in (7, 3, 5, 9))


def job_of(tmp: Path, table: pa.Table, parts: int = 1, **model: Any) -> RunConfig:
    (tmp / "log.csv").write_text(LOG)
    (tmp / "items").mkdir(exist_ok=True)
    step = -(-len(table) // parts)
    for part in range(parts):
        pq.write_table(table.slice(part * step, step), tmp / f"items/{part}.parquet")
    return RunConfig.model_validate({
        "name": "run", "storage": str(tmp),
        "prepare": {
            "source": {"files": str(tmp / "log.csv"), "columns": {"user": "user", "item": "item"}},
            "items": {"files": str(tmp / "items"), "format": "parquet", "id": "id",
                      "title": "name",
                      "attributes": {"text": {"kind": "vector", "column": "embedding"},
                                     "brand": {"kind": "category"}}},
            "vocabulary": {"of": "all"},
        },
        "model": {"dim": 8, **model},
    })  # fmt: skip


def table_of(vectors: list[Any], kind: pa.DataType, ids: list[int] | None = None) -> pa.Table:
    ids = [3, 100, 7, 3, 9, 5] if ids is None else ids
    brands = [f"b{i % 2}" for i in ids]
    return pa.table(
        {"id": ids, "name": brands, "brand": brands, "embedding": pa.array(vectors, kind)}
    )


def rows_of(job: RunConfig, manifest: Manifest, folder: Path) -> dict[str, list[float]]:
    """By external id."""
    prepare = RunFolder.of(job.storage, job.name).prepare
    supplied = Supplied.open(prepare, "item", ("text",), manifest.items, manifest.item_vectors)
    assert supplied is not None
    names = pq.read_table(folder / "vocabulary/item.parquet").to_pylist()
    found = supplied.of(np.array([name["id"] for name in names]))
    assert not supplied.of(np.array([0])).any()
    return {name["external_id"]: row.tolist() for name, row in zip(names, found, strict=True)}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.int32())]
)
def test_rows_by_hand(
    tmp_path: Path, kind: pa.DataType, parts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first row of an id counts; items that the log lacks have no row; length 1."""
    vectors = [[3, 4], [8, 8], [0, -2], [1, 1], [0, 0], None]
    job = job_of(tmp_path, table_of(vectors, kind), parts, item_vectors=["text"])
    manifest, folder = prepared(job)
    assert manifest.item_vectors == {"text": 2} and manifest.item_attributes == {"brand": 2}
    found = rows_of(job, manifest, folder)
    expected = {"3": [0.6, 0.8], "7": [0, -1], "9": [0, 0], "5": [0, 0]}
    assert found.keys() == expected.keys()
    for item, row in expected.items():
        assert found[item] == pytest.approx(row)
    matrix = vectors_of(
        RunFolder.of(job.storage, job.name).prepare, "item", "text", manifest.items, 2
    )
    assert has_vectors(matrix).sum() == 2
    columns = pq.read_schema(folder / "attributes/item.parquet").names
    assert columns == ["id", "title", "brand"]
    assert "2 of 4 items have no vector" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_no_vector(tmp_path: Path) -> None:
    vectors = [[1.0, np.nan], [1, 1], [np.inf, 1], [1, 1], [1, None], [0, 2]]
    job = job_of(tmp_path, table_of(vectors, pa.list_(pa.float32())))
    manifest, folder = prepared(job)
    assert rows_of(job, manifest, folder) == {"3": [0, 0], "7": [0, 0], "9": [0, 0], "5": [0, 1]}


@pytest.mark.parametrize("parts", [1, 6])
def test_vectors_of_two_lengths(tmp_path: Path, parts: int) -> None:
    vectors = [[1, 2], [8, 8], [0, 1], [1, 1], [1, 2, 3], None]
    job = job_of(tmp_path, table_of(vectors, pa.list_(pa.float32())), parts)
    with pytest.raises(DataError, match="two lengths") as caught:
        prepared(job)
    assert "parquet, column 'embedding'" in str(caught.value) and "3 numbers" in str(caught.value)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_formats_without_lists_of_numbers(tmp_path: Path, form: str) -> None:
    job = job_of(tmp_path, table_of([[1, 2]] * 6, pa.list_(pa.float32()))).model_dump(mode="json")
    job["prepare"]["items"]["format"] = form
    with pytest.raises(ValueError, match=f"format '{form}' has no columns of lists.*use parquet"):
        RunConfig.model_validate(job)


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.string())])
def test_text_is_no_vector(tmp_path: Path, kind: pa.DataType) -> None:
    text: list[Any] = ["0.1 0.2"] * 6 if kind == pa.string() else [["a"]] * 6
    with pytest.raises(DataError, match="cannot be a vector") as caught:
        prepared(job_of(tmp_path, table_of(text, kind)))
    assert "lists of numbers" in str(caught.value)


def test_names_are_checked(tmp_path: Path) -> None:
    table = table_of([[1, 2]] * 6, pa.list_(pa.float32()))
    for wrong, match in (
        ({"item_vectors": ["brand"]}, "has as kind 'category'"),
        ({"item_attributes": ["text"]}, "has as kind 'vector'"),
        ({"user_vectors": ["text"]}, "it has: none"),
    ):
        with pytest.raises((ConfigError, ValueError), match=match):
            job_of(tmp_path, table, **wrong)
