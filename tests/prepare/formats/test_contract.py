"""Every registered format reads back a log written in it, however the log is cut into files."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.config.raw_files import AttributeTable, Source
from p5dist.config.registry import FORMATS
from p5dist.errors import DataError
from p5dist.prepare.layout import FileRange, Layout
from p5dist.prepare.reading import read_range
from p5dist.prepare.sources import cut_files, estimate_rows, find_files
from p5dist.prepare.values import as_text

OURS = {"user": "u", "item": "i", "timestamp": "t", "rating": "r", "event": "e"}
Row = dict[str, Any]
ROWS: list[Row] = [
    {
        "u": f"u{n}",
        "i": f"ü{n}-{m}",
        "t": 9 * m,
        "r": m / 2,
        "e": "bought"[m:],
        "shop": f"s{n}",
    }
    for n in range(12)
    for m in range(5)
]


def separated(mark: str, header: bool = True) -> Callable[[Path, list[Row]], None]:
    def write(path: Path, rows: list[Row]) -> None:
        lines = [list(rows[0])] * header + [list(row.values()) for row in rows]
        path.write_text("".join(mark.join(map(str, line)) + "\n" for line in lines))

    return write


def json_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)


def sequences(path: Path, rows: list[Row]) -> None:
    users = groupby(rows, lambda row: row["u"])
    path.write_text("".join(" ".join([u, *(r["i"] for r in part)]) + "\n" for u, part in users))


def key_values(path: Path, rows: list[Row]) -> None:
    path.write_text("".join("|".join(f"{k}={v}" for k, v in row.items()) + "\n" for row in rows))


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    "csv": separated(","), "tsv": separated("\t"), "jsonl": json_lines, "parquet": parquet,
    "sequences": sequences,
    "key_values": key_values,  # of tests/example_package, where that is installed
}  # fmt: skip


# Formats without files: tests/prepare/test_sources_without_files.py.
@pytest.fixture(params=[name for name in FORMATS.names() if FORMATS.find(name).is_files])
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in WRITERS, "say how a log is written in the new format"
    found: str = request.param
    return found


def log_layout(name: str, **options: Any) -> Layout:
    there = FORMATS.find(name).optional_columns
    columns: dict[str, Any] = {k: v for k, v in OURS.items() if k in ("user", "item", *there)}
    if "context" in there:
        columns["context"] = {"shop": {}}
    source = {"files": "unused", "format": name, "columns": columns, **options}
    return Layout.of_log(Source.model_validate(source))


def read(ranges: list[FileRange], layout: Layout) -> tuple[list[Row], int]:
    rows: list[Row] = []
    malformed = 0
    for part in ranges:
        for records in read_range(part, layout):
            table = records.rows
            assert table.column_names == list(layout.columns)
            rows += pa.table({k: as_text(table[k]) for k in table.column_names}).to_pylist()
            malformed += records.malformed
    return rows, malformed


def expected(layout: Layout) -> list[Row]:
    def text(value: Any) -> str:
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    return [{ours: text(row[theirs]) for ours, theirs in layout.columns.items()} for row in ROWS]


def same(found: list[Row], layout: Layout) -> bool:
    """Whether rows are as they were written; numbers may have come as text."""

    def plain(row: Row) -> Row:
        return {k: v.removesuffix(".0") for k, v in row.items()}

    return [plain(row) for row in found] == expected(layout)


@pytest.mark.parametrize("range_bytes", [1, 90, 300, 1 << 30])
def test_a_log_comes_back(tmp_path: Path, name: str, range_bytes: int) -> None:
    WRITERS[name](tmp_path / "log", ROWS)
    layout = log_layout(name)
    files = find_files(str(tmp_path / "log"), layout)
    ranges = cut_files(files, layout, range_bytes)
    assert (len(ranges) == 1) == (range_bytes == 1 << 30)
    assert ranges[0].start == 0 and all(a.stop == b.start for a, b in pairwise(ranges))
    rows, malformed = read(ranges, layout)
    assert same(rows, layout) and malformed == 0


def test_a_file_says_what_it_has(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / "log", ROWS)
    layout = log_layout(name)
    [file] = find_files(str(tmp_path / "log"), layout)
    source_format = layout.source_format
    assert source_format.columns(file.url) == source_format.inspect(file).columns == file.columns
    assert file.wanted(layout) == list(layout.columns.values())
    assert len(ROWS) / 6 < estimate_rows([file], layout) < len(ROWS) * 6
    assert set(file.types) <= set(layout.columns)


def test_several_files_are_one_log(tmp_path: Path, name: str) -> None:
    half = len(ROWS) // 2
    for i, rows in enumerate((ROWS[:half], ROWS[half:])):
        WRITERS[name](tmp_path / f"{i}", rows)
    layout = log_layout(name)
    rows, _ = read(cut_files(find_files(str(tmp_path), layout), layout, 200), layout)
    assert same(rows, layout)


def test_names_where_they_may_be_given(tmp_path: Path, name: str) -> None:
    names = tuple(ROWS[0])
    if not FORMATS.find(name).is_delimited:
        with pytest.raises(ValueError, match="names is for csv and tsv files"):
            log_layout(name, names=names)
        return
    separated({"csv": ",", "tsv": "\t"}[name], header=False)(tmp_path / "log", ROWS)
    layout = log_layout(name, names=names)
    files = find_files(str(tmp_path / "log"), layout)
    for range_bytes in (50, 1 << 30):
        assert same(read(cut_files(files, layout, range_bytes), layout)[0], layout)


def test_tables_about_items(tmp_path: Path, name: str) -> None:
    settings = {"files": "unused", "format": name, "id": "i", "title": "e",
                "attributes": {"shop": {}, "r": {"kind": "numeric", "bins": [1]}}}  # fmt: skip
    if not FORMATS.find(name).describes:
        with pytest.raises(ValueError, match="has nothing about items or users"):
            AttributeTable.model_validate(settings)
        return
    WRITERS[name](tmp_path / "items", ROWS)
    layout = Layout.of_attributes(AttributeTable.model_validate(settings), "prepare.items")
    ranges = cut_files(find_files(str(tmp_path / "items"), layout), layout, 100)
    assert same(read(ranges, layout)[0], layout)


def test_files_of_nothing_and_of_something_else(tmp_path: Path, name: str) -> None:
    layout = log_layout(name)
    for data in (b"", b"\x00\xff\xfe\x01" * 9):
        (tmp_path / "log").write_bytes(data)
        with pytest.raises(DataError) as error:
            files = find_files(str(tmp_path / "log"), layout)
            read(cut_files(files, layout), layout)
        assert error.value.where and str(tmp_path / "log") in error.value.where
