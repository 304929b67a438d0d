"""The files that are read and their order, and sources that are refused before any work."""

from __future__ import annotations

import gzip
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from p5dist.config.prepare import Prepare
from p5dist.config.raw_files import Source
from p5dist.errors import DataError, MissingColumnError
from p5dist.prepare.layout import Layout
from p5dist.prepare.reading import read_range
from p5dist.prepare.sources import Inputs, cut_files, digest, find_files
from tests.prepare.test_reading import layout, read
from tests.s3 import Store

LINE = "u,i\n{},1\n"


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LINE.format(Path(name).stem))


def users(files: Any, how: Layout | None = None) -> list[str]:
    return [row[0] for row in read(files, how or layout())[0]]


def inputs(files: Any, columns: dict[str, Any], **options: Any) -> Inputs:
    source = {"files": files, "format": "parquet", "columns": columns, **options}
    return Inputs.find(Prepare.model_validate({"source": source}))


def test_folders_are_read_to_the_bottom_in_the_order_of_paths(tmp_path: Path) -> None:
    fill(tmp_path / "log", "b.csv", "a/2.csv", "a/1.csv", "c/d/3.csv", "_SUCCESS", ".b.csv.crc",
         "_temporary/0/x.csv", "a/.hidden/y.csv")  # fmt: skip
    assert users(str(tmp_path / "log")) == ["1", "2", "b", "3"]
    assert users(str(tmp_path / "log/*")) == ["1", "2", "b", "3"]
    assert users(str(tmp_path / "log/*/*.csv")) == ["1", "2"]
    assert users(str(tmp_path / "log/**/*.csv")) == ["1", "2", "b", "3"]
    assert users((str(tmp_path / "log/c"), str(tmp_path / "log/[ab]*"))) == ["3", "1", "2", "b"]
    assert users(str(tmp_path / "log/_temporary/0/x.csv")) == ["x"]
    assert users(str(tmp_path / "log/_temporary/*")) == ["x"]


def test_keys_of_folders_are_columns(tmp_path: Path) -> None:
    fill(tmp_path, "date=2024-05-01/event=view/a.csv", "date=2024-05-02/event=add%20it/b.csv",
         "date=2024-05-02/event=__HIVE_DEFAULT_PARTITION__/c.csv", "_date=1/event=x/date=0/d.csv"
         )  # fmt: skip
    columns = {"user": "u", "item": "i", "timestamp": "date", "event": "event"}
    rows, _, _ = read(str(tmp_path), layout(columns=columns, timestamp_unit="iso"))
    assert rows == [
        ("d", "1", "0", "x"), ("a", "1", "2024-05-01", "view"), ("c", "1", "2024-05-02", ""),
        ("b", "1", "2024-05-02", "add it"),
    ]  # fmt: skip
    pq.write_table(pa.table({"u": [1], "i": [2]}), tmp_path / "date=2024-05-01/event=view/p")
    how = layout(format="parquet", columns=columns, timestamp_unit="iso")
    assert read(str(tmp_path / "date=*/*/p"), how)[0] == [("1", "2", "2024-05-01", "view")]
    with pytest.raises(MissingColumnError, match="the columns there are: u, i, date, event"):
        find_files(str(tmp_path / "date=*/*/*.csv"), layout(columns={"user": "u", "item": "i",
                                                             "event": "kind"}))  # fmt: skip


def test_a_file_in_another_partition_is_another_input(tmp_path: Path) -> None:
    fill(tmp_path, "event=view/a.csv", "event=buy/a.csv")
    first, second = find_files(str(tmp_path), layout())
    assert digest(first) != digest(second)


def test_any_url_of_fsspec() -> None:
    folder = f"/{uuid.uuid4().hex}"
    memory = fsspec.filesystem("memory")
    for name in ("day=2/b.csv", "day=1/a.csv", "day=1/_c.csv"):
        memory.pipe(f"{folder}/{name}", LINE.format(Path(name).stem).encode())
    memory.pipe(f"{folder}/z.csv.gz", gzip.compress(LINE.format("z").encode()))
    columns = {"user": "u", "item": "i", "event": "day"}
    rows, _, _ = read(f"memory:/{folder}/day=*", layout(columns=columns))
    assert rows == [("a", "1", "1"), ("b", "1", "2")]
    assert users(f"memory:/{folder}") == ["a", "b", "z"]


def test_s3(s3: Store) -> None:
    for key in ("log/day=2/b.csv", "log/day=1/a.csv", "log/_SUCCESS", "other/c.csv"):
        s3.client().put_object(Bucket=s3.bucket, Key=key, Body=LINE.format(Path(key).stem).encode())
    for pattern in ("log", "log/", "log/*", "log/day=*/*.csv", "log/**/*.csv"):
        assert users(f"{s3.url}/{pattern}") == ["a", "b"]
    assert users(f"{s3.url}/other/c.csv") == ["c"]
    with pytest.raises(DataError, match="no such file"):
        users(f"{s3.url}/nothing")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"u": [1, 2, 3], "i": [4, 5, 6]}), sink, row_group_size=1)
    s3.client().put_object(Bucket=s3.bucket, Key="p/x.parquet", Body=sink.getvalue().to_pybytes())
    rows, _, units = read(f"{s3.url}/p", layout(format="parquet"), range_bytes=1)
    assert rows == [("1", "4"), ("2", "5"), ("3", "6")] and units == 3


def test_empty_files(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("\n\n")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="all files are empty"):
        find_files(str(tmp_path), layout())
    with pytest.raises(DataError, match="the file is empty"):
        find_files(str(tmp_path / "c.csv.gz"), layout())
    fill(tmp_path, "d.csv")
    assert users(str(tmp_path)) == ["d"]
    (tmp_path / "e.parquet").write_text("")
    with pytest.raises(DataError, match="not a readable parquet file"):
        find_files(str(tmp_path / "e.parquet"), layout(format="parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no such file"):
        find_files(str(tmp_path / "empty"), layout())


def test_a_header_without_rows_is_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("u,i\n")
    how = layout()
    [unit] = cut_files(find_files(str(tmp_path), how), how)
    [records] = read_range(unit, how)
    table, malformed = records.rows, records.malformed
    assert table.column_names == ["user", "item"] and len(table) == malformed == 0


def test_a_file_is_read_once_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.csv").write_text("u,i\n1,2\n")
    (tmp_path / "b.csv").symlink_to(tmp_path / "logs/a.csv")
    (tmp_path / "linked").symlink_to(tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    names = ("logs/a.csv", "logs/*.csv", "./logs", f"file://{tmp_path}/logs/a.csv",
             str(tmp_path / "b.csv"), "linked/a.csv")  # fmt: skip
    assert len(find_files(names, layout())) == 1


def test_a_file_of_two_parts_of_a_given_split(tmp_path: Path) -> None:
    for day in (1, 2):
        (tmp_path / f"day{day}.csv").write_text("user_id,item_id\n1,2\n")
    split = {"kind": "given", "test": str(tmp_path / "day2.csv")}
    section = {"source": {"files": str(tmp_path / "*.csv")}, "split": split}
    with pytest.raises(DataError, match=r"in prepare\.source\.files and in prepare\.split\.test"):
        Inputs.find(Prepare.model_validate(section))


def test_formats_that_do_not_fit(tmp_path: Path) -> None:
    pq.write_table(pa.table({"u": [1], "i": [2]}), tmp_path / "log")
    for kind in ("csv", "jsonl", "sequences"):
        with pytest.raises(DataError, match=f"the file is Parquet, not {kind}") as error:
            find_files(str(tmp_path / "log"), layout(format=kind))
        assert error.value.fix == "set prepare.source.format: parquet"
    (tmp_path / "log").write_bytes(gzip.compress(b"u,i\n1,2\n"))
    with pytest.raises(DataError, match=r"(?s)its name does not say so.*ends in \.gz"):
        find_files(str(tmp_path / "log"), layout())
    (tmp_path / "log").write_text("u,i\n1,2\n")
    with pytest.raises(DataError, match="none of the first lines is a JSON object"):
        find_files(str(tmp_path / "log"), layout(format="jsonl"))
    with pytest.raises(DataError, match="no line has a user and an item"):
        find_files(str(tmp_path / "log"), layout(format="sequences"))
    for field in ({"timestamp": "t"}, {"context": {"x": {}}}):
        with pytest.raises(ValidationError, match="'sequences' has users and items only"):
            Source.model_validate({"files": "x", "format": "sequences", "columns": field})
    with pytest.raises(ValidationError, match="names is for csv and tsv files"):
        Source.model_validate({"files": "x", "format": "jsonl", "names": ["a"]})


@pytest.mark.parametrize(
    ("type_", "refused"),
    [
        (pa.bool_(), {"user", "timestamp", "rating"}),
        (pa.list_(pa.int64()), {"user", "timestamp", "rating", "event"}),
        (pa.struct([("a", pa.int64())]), {"user", "timestamp", "rating", "event"}),
        (pa.timestamp("us", "UTC"), {"user", "rating", "event"}),
        (pa.date32(), {"user", "rating", "event"}),
        (pa.time32("s"), {"user", "timestamp", "rating", "event"}),
        (pa.binary(16), {"timestamp", "rating"}),
        (pa.string(), set()),
        (pa.dictionary(pa.int32(), pa.string()), set()),
        (pa.float64(), set()),
        (pa.decimal128(10, 2), set()),
        (pa.null(), set()),
    ],
)
def test_types_are_checked_before_any_work(
    tmp_path: Path, type_: pa.DataType, refused: set[str]
) -> None:
    path = tmp_path / "log.parquet"
    columns = {name: name for name in ("user", "item", "timestamp", "rating", "event")}
    for name in ("user", "timestamp", "rating", "event"):
        table = pa.table(
            {other: pa.array([None], type_ if other == name else pa.int64()) for other in columns}
        )
        pq.write_table(table, path)
        if name not in refused:
            inputs(str(path), columns)
            continue
        with pytest.raises(DataError, match=f"column '{name}' cannot be") as error:
            inputs(str(path), columns)
        assert error.value.where == str(path)
        assert error.value.value == str(pq.read_schema(path).field(name).type)
        assert f"prepare.source.columns.{name}" in str(error.value.fix)


def test_iso_times_are_no_numbers(tmp_path: Path) -> None:
    path = str(tmp_path / "log.parquet")
    columns = {"user": "u", "item": "i", "timestamp": "t"}
    pq.write_table(pa.table({"u": [1], "i": [1], "t": [5]}), path)
    with pytest.raises(DataError, match=r"(?s)a time of timestamp_unit 'iso'.*int64.*text"):
        inputs(path, columns, timestamp_unit="iso")


def test_ids_are_integers_if_they_are_in_all_files(tmp_path: Path) -> None:
    ints = {"log/1": pa.int32(), "log/2": pa.uint32(), "log/3": pa.int64()}
    texts = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    (tmp_path / "log").mkdir()
    for (name, int_), text in zip(ints.items(), texts, strict=True):
        rows = {"u": pa.array([1]).cast(int_), "i": pa.array(["x"], text)}
        pq.write_table(pa.table(rows), tmp_path / name)
    columns = {"user": "u", "item": "i"}
    assert inputs(str(tmp_path / "log"), columns).id_types == {
        "user": pa.int64(), "item": pa.string()
    }  # fmt: skip
    # A column with gaps became floats, or nothing but nulls; a test file counts as well.
    for more, expected in (
        (pa.array([None]), pa.int64()), (pa.array([2.0, None]), pa.string()),
        (pa.array([2], pa.uint64()), pa.string()),
    ):  # fmt: skip
        pq.write_table(pa.table({"u": more, "i": ["x"] * len(more)}), tmp_path / "test")
        prepare = {
            "source": {"files": str(tmp_path / "log"), "format": "parquet", "columns": columns},
            "split": {"kind": "given", "test": str(tmp_path / "test")},
        }
        assert Inputs.find(Prepare.model_validate(prepare)).id_types["user"] == expected
    pq.write_table(pa.table({"u": ["1"], "i": ["x"]}), tmp_path / "log/4")
    with pytest.raises(DataError, match="column 'u' is int32 in one file and string in") as error:
        inputs(str(tmp_path / "log"), columns)
    assert error.value.where == f"{tmp_path}/log/1 and {tmp_path}/log/4"


def test_units_of_parquet_are_bounded_in_rows_and_bytes(tmp_path: Path) -> None:
    path = str(tmp_path / "log.parquet")
    table = pa.table({"u": range(3000), "i": [7] * 3000, "wide": ["x" * 1000] * 3000})
    pq.write_table(table, path, row_group_size=1000, use_dictionary=False, compression="none")
    how = layout(format="parquet")
    files = find_files(path, how)
    # Two columns of 8,000 bytes a group: what is not read does not count.
    assert [rows for rows, _ in files[0].groups] == [1000] * 3
    assert all(16_000 <= size < 17_000 for _, size in files[0].groups)
    edges = [(unit.start, unit.stop) for unit in cut_files(files, how, 30_000)]
    assert edges == [(0, 2), (2, 3)]
