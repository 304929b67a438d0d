"""A source format of a user, named in the job file by its path, through the whole stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p5dist.config import RunConfig
from p5dist.config.raw_files import Source
from p5dist.errors import DataError
from tests.prepare.runs import make_job, prepared
from tests.prepare.test_interrupted import contents
from tests.prepare.test_reading import layout, read

OWN = "tests.prepare.formats.own"
COLUMNS = {"user": "user", "item": "item", "timestamp": "timestamp"}
ROWS = [(f"u{n}", f"i{n * m % 7}", 1_000_000_000 + 60 * m) for n in range(30) for m in range(1, 5)]


def write(folder: Path, format_: str) -> str:
    if format_ == "Ini":
        for part in range(4):  # an interaction a user in each file
            text = "".join(f"[{user}]\n{item} = {time}\n" for user, item, time in ROWS[part::4])
            (folder / f"{part}.ini").write_text(text)
        return str(folder / "*.ini")
    if format_ == "FixedWidth":
        lines = "".join(f"{user:4}{item:4}{time:12}\n" for user, item, time in ROWS)
        (folder / "log.txt").write_text(f"short\n{lines}\n")
        return str(folder / "log.txt")
    rows = [row for part in range(4) for row in ROWS[part::4]] if format_ == "ini.csv" else ROWS
    lines = "".join(f"{user},{item},{time}\n" for user, item, time in rows)
    (folder / format_).write_text(f"user,item,timestamp\n{lines}")
    return str(folder / format_)


def job(folder: Path, files: str, **source: Any) -> RunConfig:
    return make_job(folder, {"files": files, "columns": COLUMNS, **source})


def shards(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.startswith("shards/")}


@pytest.mark.parametrize(("format_", "malformed"), [("Ini", 0), ("FixedWidth", 1)])
def test_a_format_of_a_user(tmp_path: Path, format_: str, malformed: int) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    prepared(job(ours, write(ours, "ini.csv" if format_ == "Ini" else "log.csv")))
    files = write(theirs, format_)
    manifest, _ = prepared(job(theirs, files, format=f"{OWN}:{format_}"), range_bytes=300)
    assert manifest.rows_kept == len(ROWS)
    assert manifest.rows_rejected == ({"malformed": malformed} if malformed else {})
    assert shards(theirs) == shards(ours) and len(shards(ours)) == 3


def test_a_whole_file_is_one_range_unless_the_format_says_more(tmp_path: Path) -> None:
    for format_, many in (("Ini", 4), ("FixedWidth", 9)):
        how = layout(format=f"{OWN}:{format_}", columns=COLUMNS)
        rows, _, ranges = read(write(tmp_path, format_), how, range_bytes=300)
        assert len(rows) == len(ROWS) and ranges == many


def test_another_delimiter(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('user;item\n"a;b";1,5\nc;2\n')
    columns = {"user": "user", "item": "item"}
    how = layout(format=f"{OWN}:Semicolons", columns=columns)
    assert read(str(tmp_path / "log.csv"), how)[0] == [("a;b", "1,5"), ("c", "2")]
    (tmp_path / "log.csv").write_text("a;1\nb;2\n")
    how = layout(format=f"{OWN}:Semicolons", columns=columns, names=["user", "item"])
    rows, _, ranges = read(str(tmp_path / "log.csv"), how, range_bytes=4)
    assert rows == [("a", "1"), ("b", "2")] and ranges == 2


def test_what_a_format_of_a_user_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has users, items and timestamp only; remove it"):
        Source.model_validate(
            {"files": "x", "format": f"{OWN}:Ini", "columns": {**COLUMNS, "rating": "r"}}
        )
    files = write(tmp_path, "Ini")
    with pytest.raises(DataError, match=r"has not read column 'timestamp'") as error:
        read(files, layout(format=f"{OWN}:Forgetful", columns=COLUMNS))
    assert error.value.where == f"{tmp_path}/0.ini"
