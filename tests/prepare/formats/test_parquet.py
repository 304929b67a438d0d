from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.config.prepare import Prepare
from p5dist.config.raw_files import Source
from p5dist.errors import DataError
from p5dist.prepare.cleaning import clean
from p5dist.prepare.reading import read_range
from p5dist.prepare.sources import cut_files, find_files
from tests.prepare.test_reading import layout, read


def test_parquet_is_cut_at_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    table = pa.table({"u": [str(n) for n in range(10)], "i": ["x"] * 10})
    pq.write_table(table, path, row_group_size=3)
    rows, _, units = read(str(path), layout(format="parquet"), range_bytes=1)
    assert rows == [(str(n), "x") for n in range(10)] and units == 4
    assert read(str(path), layout(format="parquet"))[2] == 1


@pytest.mark.parametrize("codec", ["gzip", "zstd", "snappy", "none"])
def test_codecs_of_parquet(tmp_path: Path, codec: str) -> None:
    path = str(tmp_path / "log")
    pq.write_table(pa.table({"u": ["a", "b"], "i": [1, 2]}), path, compression=codec)
    assert read(path, layout(format="parquet"))[0] == [("a", "1"), ("b", "2")]


def test_parquet_keeps_the_types_that_matter(tmp_path: Path) -> None:
    path = str(tmp_path / "log.parquet")
    times = pa.array([-62135596800, 253402300799], pa.timestamp("s")).cast(pa.timestamp("us"))
    rows = {"u": pa.array([1, 2], pa.uint16()), "i": ["x", None], "t": times, "e": ["view", "buy"]}
    columns = {"user": "u", "item": "i", "timestamp": "t", "event": "e"}
    how = layout(format="parquet", columns=columns)
    for int96 in (False, True):
        pq.write_table(pa.table(rows), path, use_deprecated_int96_timestamps=int96)
        [unit] = cut_files(find_files(path, how), how)
        [records] = read_range(unit, how)
        table = records.rows
        assert table.schema.types == [
            pa.uint16(), pa.string(), pa.timestamp("us"), pa.dictionary(pa.int32(), pa.string()),
        ]  # fmt: skip
        assert table["timestamp"].to_pylist()[1].year == 9999


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.large_string(), pa.string_view(), pa.binary_view()]
)
def test_text_of_any_encoding(tmp_path: Path, kind: pa.DataType) -> None:
    path = str(tmp_path / "log.parquet")
    columns = {"user": "u", "item": "i", "timestamp": "t", "rating": "r", "event": "e"}
    how = layout(format="parquet", columns=columns)
    values = {"u": "é", "i": "2", "t": "3", "r": "4.5", "e": "view"}
    rows = {name: pa.array([value.encode()]).cast(kind) for name, value in values.items()}
    pq.write_table(pa.table(rows), path)
    [unit] = cut_files(find_files(path, how), how)
    [records] = read_range(unit, how)
    table = records.rows
    source = Source.model_validate({"files": "unused", "columns": columns})
    assert clean(table, Prepare(source=source), how).rows.to_pylist() == [
        {"user": "é", "item": "2", "timestamp": 3_000_000, "rating": 4.5, "event": "view"}
    ]
    if kind == pa.binary():
        pq.write_table(pa.table(rows | {"u": pa.array([b"\xff"])}), path)
        with pytest.raises(DataError, match="column 'u' holds bytes that are no UTF-8") as error:
            list(read_range(unit, how))
        assert error.value.where == path


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    rows = pa.table([[1], [2], [3]], names=["u", "i", "i"])
    pq.write_table(rows, tmp_path / "log.parquet")
    with pytest.raises(DataError, match="column 'i' is in the file 2 times"):
        find_files(
            str(tmp_path / "log.parquet"),
            layout(format="parquet", columns={"user": "u", "item": "i"}),
        )
