"""Files with external ids, of every kind."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.errors import DataError, MissingColumnError
from p5dist.inference.lists.id_files import read_ids

NAMES = ("customer", "user_id")


def ids(files: Path | list[Path]) -> list[str]:
    paths = tuple(map(str, files)) if isinstance(files, list) else str(files)
    found: list[str] = read_ids(paths, "recommend.users", NAMES).to_pylist()
    return found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\ufeff7\r\n\r\n x \"y\", z\n7\n008\n"),
        ("ids", "7\nx \"y\", z\n008"),
        ("a.csv", 'age,user_id\n1,7\n2,"x ""y"", z"\n3,008\n4,\n'),
        ("one column.csv", 'whatever\n7\n"x ""y"", z"\n008\n'),
    ],
)  # fmt: skip
def test_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert ids(tmp_path / name) == ["7", 'x "y", z', "008"]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert ids(tmp_path / f"{name}.gz") == ["7", 'x "y", z', "008"]


def test_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("user_id\tcustomer\na\t7\nb\tx, z\n")
    assert ids(tmp_path / "a.tsv") == ["7", "x, z"]


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.string(), pa.decimal128(12, 1)])
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array([3, None, 12, 3]).cast(pa.int32())
    table = pa.table({"x": [0] * 4, "customer": column.cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert ids(tmp_path / "a.parquet") == ["3", "12"]


def test_several_files_are_one_list(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n")
    (tmp_path / "b.txt").write_text("2\n3\n")
    assert ids([tmp_path / "b.txt", tmp_path / "a.txt"]) == ["2", "3", "1"]
    assert ids(tmp_path) == ["1", "2", "3"]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)no such file.*recommend\.users"):
        ids(tmp_path / "nothing.txt")
    for name in ("empty.txt", "lines.txt"):
        (tmp_path / name).write_text("" if name == "empty.txt" else "\n \n")
        with pytest.raises(DataError, match=r"(?s)no id in the file.*recommend\.users"):
            ids(tmp_path / name)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MissingColumnError, match=r"customer or user_id; .* there are: a, b"):
        ids(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match="a file with ids cannot be read"):
        ids(tmp_path / "a.parquet")
    pq.write_table(pa.table({"customer": [[1], [2]]}), tmp_path / "list.parquet")
    with pytest.raises(DataError, match="customer"):
        ids(tmp_path / "list.parquet")
