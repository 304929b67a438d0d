from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist.config.raw_files import Source
from p5dist.errors import DataError, MissingColumnError
from p5dist.prepare import layout as layout_module
from p5dist.prepare import reading
from p5dist.prepare.formats import delimited, lines, parquet
from p5dist.prepare.layout import Layout
from p5dist.prepare.reading import read_range
from p5dist.prepare.sources import cut_files, find_files
from p5dist.prepare.values import as_text


def layout(**source: Any) -> Layout:
    columns = source.pop("columns", {"user": "u", "item": "i"})
    return Layout.of_log(Source.model_validate({"files": "unused", "columns": columns, **source}))


def read(
    files: Any, how: Layout, range_bytes: int = 1 << 20
) -> tuple[list[tuple[Any, ...]], int, int]:
    """Rows as text, malformed lines and the number of units."""
    units = cut_files(find_files(files, how), how, range_bytes)
    parts = [part for unit in units for part in read_range(unit, how)]
    rows: list[tuple[Any, ...]] = []
    for part in parts:
        table = part.rows
        assert table.column_names == list(how.columns)
        rows += zip(*(as_text(column).to_pylist() for column in table.columns), strict=True)
    return rows, sum(part.malformed for part in parts), len(units)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("range_bytes", [2, 7, 16, 1000])
def test_every_line_is_read_once_wherever_the_file_is_cut(
    tmp_path: Path, end: str, last: bool, range_bytes: int
) -> None:
    rows = [(f"u{i}" * (i % 4 + 1), f"{i}") for i in range(12)]
    lines = ["\t".join(row) for row in rows]
    path = tmp_path / "log.tsv"
    path.write_bytes((end.join(lines) + end * last).encode())
    found, _, units = read(str(path), layout(format="tsv", names=["u", "i"]), range_bytes)
    assert found == rows
    assert units == -(-path.stat().st_size // range_bytes)
    path.write_bytes((end.join(["u\ti", *lines]) + end * last).encode())
    assert read(str(path), layout(format="tsv"), range_bytes)[0] == rows
    path.write_bytes(
        (end.join(json.dumps({"u": u, "i": i}) for u, i in rows) + end * last).encode()
    )
    assert read(str(path), layout(format="jsonl"), range_bytes)[0] == rows


def test_quotes_in_csv_and_tsv(tmp_path: Path) -> None:
    csv, tsv = tmp_path / "log.csv", tmp_path / "log.tsv"
    csv.write_text('u,i\n"a\nb","x,""y"""\nc,d\n')
    rows, _, units = read(str(csv), layout(), range_bytes=4)
    assert rows == [("a\nb", 'x,"y"'), ("c", "d")]
    assert units == 1
    tsv.write_text('u\ti\n"a\t"b" c\n')
    assert read(str(tsv), layout(format="tsv"))[0] == [('"a', '"b" c')]


def test_byte_order_mark_gzip_empty_lines_and_malformed_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    text = "\ufeffu,more,i\n1,x,2\n\n3,4\n5,x,6,7\n8,x,9\n"
    path.write_bytes(gzip.compress(text.encode()))
    rows, malformed, _ = read(str(path), layout(), range_bytes=5)
    assert rows == [("1", "2"), ("8", "9")]
    assert malformed == 2


def test_several_files_keep_the_order_of_the_job(tmp_path: Path) -> None:
    for name in ("a-2", "a-1", "b"):
        (tmp_path / f"{name}.csv").write_text(f"u,i\n{name},1\n")
    (tmp_path / "a-0.csv").write_text("")
    patterns = (str(tmp_path / "b.csv"), str(tmp_path / "a-*.csv"), str(tmp_path / "*-1.csv"))
    assert [u for u, _ in read(patterns, layout())[0]] == ["b", "a-1", "a-2"]
    assert [u for u, _ in read(str(tmp_path), layout())[0]] == ["a-1", "a-2", "b"]
    assert [u for u, _ in read(f"file://{tmp_path}/b.csv", layout())[0]] == ["b"]


def test_typed_files_become_text(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [
        {"u": 1, "i": "2014-01-02", "t": 5.5, "other": [1]},
        {"u": 2, "i": "2014-01-03"},
        {"i": None, "u": 30000000000, "t": 6},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    how = layout(format="jsonl", columns={"user": "u", "item": "i", "timestamp": "t"})
    assert read(str(path), how)[0] == [
        ("1", "2014-01-02", "5.5"), ("2", "2014-01-03", None), ("30000000000", None, "6"),
    ]  # fmt: skip
    parquet = tmp_path / "log.parquet"
    time = pa.array([1500, None], pa.timestamp("ms"))
    pq.write_table(pa.table({"u": [1.0, None], "i": [b"a", b"b"], "t": time}), parquet)
    how = layout(format="parquet", columns={"user": "u", "item": "i", "timestamp": "t"})
    assert read(str(parquet), how)[0] == [("1", "a", "1970-01-01 00:00:01.500"), (None, "b", None)]


def test_missing_columns_name_file_columns_and_knob(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("u,item\n1,2\n")
    (tmp_path / "log.jsonl").write_text('{"u": 1, "item": 2}\n')
    pq.write_table(pa.table({"u": [1], "item": [2]}), tmp_path / "log.parquet")
    for kind in ("csv", "jsonl", "parquet"):
        path = str(tmp_path / f"log.{kind}")
        with pytest.raises(MissingColumnError) as error:
            find_files(path, layout(format=kind))
        assert error.value.where == path
        assert "'i'" in error.value.what
        assert error.value.rule == "the columns there are: u, item"
        assert "prepare.source.columns.item" in (error.value.fix or "")
    with pytest.raises(DataError, match="2 fields for 3 names"):
        find_files(str(tmp_path / "log.csv"), layout(names=["u", "i", "x"]))


def test_what_cannot_be_read_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    path.write_bytes(b"u\ti\n1\t2\nfa\xe7ade\t3\n")
    how = layout(format="tsv")
    for range_bytes in (1 << 20, 9):
        with pytest.raises(DataError, match=f"{path}, byte 10") as error:
            read(str(path), how, range_bytes)
        assert "prepare.source.encoding: latin-1" in (error.value.fix or "")
    path.write_text("u\ti\n1\t2\n")
    with pytest.raises(DataError, match="not a readable parquet file"):
        find_files(str(path), layout(format="parquet"))
    with pytest.raises(DataError, match="no such file"):
        find_files((str(path), str(tmp_path / "nothing")), how)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2"])
@pytest.mark.parametrize("format_", ["csv", "tsv", "jsonl", "sequences"])
def test_compressed_files(
    tmp_path: Path, format_: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 50)
    rows = [(f"u{n}", f"i{m}") for n in range(20) for m in range(3)]
    text = {
        "csv": "u,i\n" + "".join(f"{u},{i}\n" for u, i in rows),
        "tsv": "u\ti\n" + "".join(f"{u}\t{i}\n" for u, i in rows),
        "jsonl": "".join(json.dumps({"u": u, "i": i}) + "\n" for u, i in rows),
        "sequences": "".join(f"u{n} i0 i1 i2\n" for n in range(20)),
    }[format_]
    path = str(tmp_path / f"log{suffix}")
    data = b""
    for part in (f"\ufeff{text[:301]}", text[301:]):  # compressed files may be put together
        with pa.output_stream(path, compression="detect") as stream:
            stream.write(part.encode())
        data += Path(path).read_bytes()
    Path(path).write_bytes(data)
    assert read(path, layout(format=format_), range_bytes=7)[0] == rows


@pytest.mark.parametrize("range_bytes", [1, 9, 1000])
def test_sequences(tmp_path: Path, range_bytes: int) -> None:
    path = tmp_path / "log.txt"
    path.write_text("u1 7 8 7\n\nlonely\n  u2\t9   10 \r\nu1 11\n \nü é\n")
    rows, malformed, _ = read(str(path), layout(format="sequences"), range_bytes)
    assert rows == [("u1", "7"), ("u1", "8"), ("u1", "7"), ("u2", "9"), ("u2", "10"), ("u1", "11"),
                    ("ü", "é")]  # fmt: skip
    assert malformed == 1


fields = st.one_of(
    st.sampled_from(["", "NULL", "0x1F", " 5 ", "007", "1e3", "5.5", "x", "9223372036854775808"]),
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=6),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(fields, fields, fields, fields, fields), max_size=10),
    st.integers(1, 40),
    st.sampled_from(["", ".gz"]),
)
def test_csv_agrees_with_python(rows: list[tuple[str, ...]], range_bytes: int, suffix: str) -> None:
    names = ("u", "i", "t", "e", "r")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / f"log.csv{suffix}")
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([names, *rows])
        with pa.output_stream(path, compression="detect") as stream:
            stream.write(text.getvalue().encode())
        columns = dict(zip(("user", "item", "timestamp", "event", "rating"), names, strict=True))
        assert read(path, layout(columns=columns), range_bytes)[0] == rows


def test_large_files_come_in_tables_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"{n % 7}", f"{n}") for n in range(30_000)]
    text = "u,i\n" + "".join(f'"{u}",{i}\n' for u, i in rows)
    (tmp_path / "quoted.csv").write_text(text)
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(
        pa.table({"u": [u for u, _ in rows], "i": range(30_000)}), tmp_path / "log.parquet"
    )
    (tmp_path / "log.txt").write_text("u " + " ".join(i for _, i in rows))
    monkeypatch.setattr(delimited, "_PARSED_BYTES", 10_000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 1_000)
    monkeypatch.setattr(reading, "MAX_ROWS", 5_000)
    monkeypatch.setattr(layout_module, "MAX_ROWS", 5_000)
    for name, kind in (
        ("quoted.csv", "csv"), ("log.csv.gz", "csv"), ("log.parquet", "parquet"),
        ("log.txt", "sequences"),
    ):  # fmt: skip
        how = layout(format=kind)
        [unit] = cut_files(find_files(str(tmp_path / name), how), how, 1 << 30)
        sizes = [len(records.rows) for records in read_range(unit, how)]
        assert sum(sizes) == 30_000 and 4 < len(sizes) < 12 and max(sizes) <= 5_000
        assert [i for _, i in read(str(tmp_path / name), how)[0]] == [i for _, i in rows]
    monkeypatch.setattr(layout_module, "MAX_BYTES", 10_000)
    how = layout(format="parquet")
    [unit] = cut_files(find_files(str(tmp_path / "log.parquet"), how), how)
    assert len(list(read_range(unit, how))) == 30


def test_malformed_lines_count_once_in_streams(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(delimited, "_PARSED_BYTES", 1000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(layout_module, "MAX_ROWS", 50)
    text = "u,i\n" + "".join(f"{n},1\n" if n % 10 else f"{n}\n" for n in range(1000))
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((text + "x\n" * 500).encode()))
    rows, malformed, _ = read(str(tmp_path / "log.csv.gz"), layout())
    assert [u for u, _ in rows] == [str(n) for n in range(1000) if n % 10]
    assert malformed == 600


def test_the_byte_that_is_not_utf8_is_found_far_inside(tmp_path: Path) -> None:
    for name, line, bad in (
        ("log.csv.gz", b"1,2\n", b"1,fa\xe7ade\n"),
        ("log.jsonl.gz", b'{"u": 1, "i": 2}\n', b'{"u": 1, "i": "fa\xe7ade"}\n'),
        ("log.txt", b"u i\n", b"u fa\xe7ade\n"),
    ):
        for times in (0, 300_000):
            data = b"u,i\n" * name.endswith("csv.gz") + line * times + bad
            (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
            kind = {"csv": "csv", "jsonl": "jsonl", "txt": "sequences"}[name.split(".")[1]]
            with pytest.raises(DataError, match=rf"{name}, byte {data.index(0xE7)}\b"):
                read(str(tmp_path / name), layout(format=kind), 1 << 30)


def test_columns_that_are_not_read_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"u,i,title\n1,2,fa\xe7ade\n")
    assert read(str(path), layout())[0] == [("1", "2")]
