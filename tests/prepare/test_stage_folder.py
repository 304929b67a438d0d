"""Run folders that the stage refuses, leftovers, and the layout of its files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from p5dist.data.manifest import Manifest
from p5dist.errors import DataError, EmptyLogError, MissingColumnError
from p5dist.prepare.stage import run
from p5dist.storage import Folder, RunFolder
from tests.prepare.runs import COLUMNS, dirty_rows, make_job, prepared, processes, write_csv


def test_errors_come_before_any_work(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", dirty_rows(1, 50))
    manifest, _ = prepared(make_job(tmp_path, {"files": log}))
    wrong = {**COLUMNS, "rating": "stars"}
    with pytest.raises(MissingColumnError) as error:
        prepared(make_job(tmp_path, {"files": log, "columns": wrong}))
    text = str(error.value)
    for part in ("stars", log, "user, item, rating, timestamp", "prepare.source.columns.rating"):
        assert part in text
    with pytest.raises(DataError, match="no such file"):
        prepared(make_job(tmp_path, {"files": "nowhere/*.csv"}))
    # What was there before is still whole.
    assert Manifest.load(RunFolder.of(str(tmp_path), "run").prepare) == manifest


def test_a_log_without_valid_rows(tmp_path: Path) -> None:
    rows = [{"user": "", "item": "1", "rating": "", "timestamp": "1"}] * 3
    rows += [{"user": "1", "item": "1", "rating": "", "timestamp": "?"}]
    log = write_csv(tmp_path / "log.csv", rows)
    folder = RunFolder.of(str(tmp_path), "run")
    with pytest.raises(EmptyLogError) as error:
        run(make_job(tmp_path, {"files": log}), folder, processes())
    assert "4 rows in; rejected: null_user 3, bad_timestamp 1 (the first: '?')" in str(error.value)
    assert not (folder.prepare / "manifest.json").exists()
    with pytest.raises(EmptyLogError, match="no rows"):
        run(
            make_job(tmp_path, {"files": write_csv(tmp_path / "empty.csv", [])}),
            folder,
            processes(),
        )
    lonely = write_csv(
        tmp_path / "log.csv", [{"user": "1", "item": "1", "rating": "", "timestamp": "1"}]
    )
    clean = {"min_user_interactions": 2}
    with pytest.raises(EmptyLogError, match="rare_user 1"):
        run(make_job(tmp_path, {"files": lonely}, clean=clean), folder, processes())


@pytest.mark.parametrize(
    ("unit", "time", "forms"),
    [
        ("s", "2019-10-01 00:00:00 CEST", "numbers such as 1714566600, counted from 1970"),
        ("iso", "1714566600", "2024-05-01 12:30:00 UTC; numbers need timestamp_unit s"),
    ],
)
def test_unreadable_times_are_shown_with_the_forms_that_can_be_read(
    tmp_path: Path, unit: str, time: str, forms: str
) -> None:
    rows = [{"user": "1", "item": str(i), "rating": "", "timestamp": time} for i in range(3)]
    source = {"files": write_csv(tmp_path / "log.csv", rows), "timestamp_unit": unit}
    with pytest.raises(EmptyLogError) as error:
        prepared(make_job(tmp_path, source))
    assert f"bad_timestamp 3 (the first: '{time}')" in str(error.value.value)
    assert forms in str(error.value.rule)


def test_a_split_that_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    rows = [{"user": "1", "item": str(i), "rating": "", "timestamp": "9"} for i in range(3)]
    source = {"files": write_csv(tmp_path / "log.csv", rows)}
    for test in (0.2, "1970-01-01"):
        with pytest.raises(EmptyLogError, match="the split leaves no interaction") as error:
            prepared(make_job(tmp_path, source, split={"kind": "time", "test": test}))
        assert error.value.where == "prepare.split" and "3 interactions" in str(error.value.rule)


def test_a_task_that_cannot_parse_reaches_the_user(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item,rating,timestamp\n1,caf\xe9,3,1\n")
    with pytest.raises(DataError) as error:
        run(
            make_job(tmp_path, {"files": str(path)}),
            RunFolder.of(str(tmp_path), "run"),
            processes(),
        )
    assert type(error.value) is DataError
    assert "not UTF-8" in str(error.value) and "byte 32" in str(error.value)


def test_leftovers_go_and_row_groups_are_as_asked(tmp_path: Path) -> None:
    rows = [{"user": str(u), "item": "1", "rating": "3", "timestamp": "1"} for u in range(600)]
    log = write_csv(tmp_path / "log.csv", rows)
    leftover = Folder.open(str(tmp_path)) / "run" / "prepare" / "shards" / "part-99999.parquet"
    leftover.write_bytes(b"half")
    job = make_job(tmp_path, {"files": log})
    manifest, _ = prepared(job)
    assert not leftover.exists()
    # 600 // (64 lanes · 4) = 2
    assert {rows for shard in manifest.shards for rows in shard.groups[:-1]} == {2}
    assert [s.first_row for s in manifest.shards] == [
        0,
        *_sums(s.rows for s in manifest.shards)[:-1],
    ]
    assert manifest.histories == 600
    manifest, _ = prepared(make_job(tmp_path, {"files": log}, group_rows=70))
    assert manifest.shards[0].groups[0] == 70


def _sums(values: Iterable[int]) -> list[int]:
    total, sums = 0, []
    for value in values:
        total += value
        sums.append(total)
    return sums
