"""People who are not in the log: the same lists as users of the log with the same history."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.config import parse_job
from p5dist.data import columns as c
from p5dist.errors import ConfigError, DataError, EmptyLogError, MissingColumnError
from p5dist.inference import recommend
from p5dist.inference.lists import new_people
from p5dist.report.users import _lists
from p5dist.storage import RunFolder
from tests.fake_scorer import load_fake
from tests.inference.lists.made import (
    K,
    best,
    counts_of,
    histories_of,
    ids_of,
    job_at,
    made,
    parts_of,
    prepared,
    scores_of,
)

SOURCE = "columns: {user: who, item: what, timestamp: at, rating: stars}"


def settings_for(file: Path, more: str = "") -> str:
    return f"recommend.histories={{files: {file}, {SOURCE}{more}}}"


def write_table(folder: RunFolder, file: Path, *, shuffled: bool) -> None:
    """The whole log, people named p1, p2, …, rows in any order."""
    rows = []
    for shard in sorted(Path(folder.prepare.path, "shards").glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            rows += [
                {"who": f"p{row[c.USER]}", "what": f"i{item}", "at": at // c.SECOND, "stars": stars}
                for item, at, stars in zip(
                    row[c.ITEM], row[c.TIMESTAMP], row[c.RATING], strict=True
                )
            ]
    if shuffled:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=50)


@pytest.mark.parametrize("portion", [40, new_people.ROWS])
def test_the_lists_are_those_of_users_with_the_same_history(
    tmp_path: Path, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_people, "ROWS", portion)
    job, folder = prepared(tmp_path)
    log, _ = made(job, folder)
    write_table(folder, tmp_path / "new.parquet", shuffled=True)
    found, result = made(
        job_at(tmp_path, settings_for(tmp_path / "new.parquet", ", format: parquet")), folder
    )
    assert {f"u{user[1:]}": [name for name, _ in own] for user, own in found.items()} == {
        user: [name for name, _ in own] for user, own in log.items()
    }
    for user, own in log.items():
        scores = [score for _, score in own]
        assert [score for _, score in found[f"p{user[1:]}"]] == pytest.approx(scores, abs=1e-5)
    interactions = sum(map(len, histories_of(folder).values()))
    assert (result["users"], result["interactions"]) == (50, interactions)
    assert len(parts_of(folder)) == 1 if portion > 40 else len(parts_of(folder)) > 8


HAND = """who,what,at,stars
x,i1,10,5
y,unknown,11,4
x,i2,12,
z,i4,10,1
z,i4,10,1
z,i3,9,1
x,i3,100,2
x,unknown,101,2
,i3,5,1
z,i3,soon,1
"""


def test_by_hand(tmp_path: Path) -> None:
    """Of x the last session has item 3 only, all three items are seen; y has no known item; z has
    3, then 4, of which one is a duplicate."""
    (tmp_path / "new.csv").write_text(HAND)
    setting = settings_for(tmp_path / "new.csv")
    job, folder = prepared(tmp_path, setting, "prepare.session_gap=50")
    found, result = made(job, folder)
    assert ids_of(found, "x") == best(scores_of([3]), {1, 2, 3})
    assert ids_of(found, "z") == best(scores_of([3, 4]), {3, 4})
    popular = np.argsort(-counts_of(folder), kind="stable")[:K] + 1
    assert ids_of(found, "y") == popular.tolist()
    assert [score for _, score in found["y"]] == [None] * K
    expected = {
        "lists_for": "new people", "users": 3, "rows": 15,
        "users_without_known_items": 1, "interactions": 7, "interactions_with_unknown_items": 2,
        "rejected": {"null_user": 1, "bad_timestamp": 1, "duplicate": 1},
    }  # fmt: skip
    assert {name: result[name] for name in expected} == expected
    assert not _lists(folder.recommend, ["x", "z"])  # the report is about users of the log
    allowed = job_at(tmp_path, setting, "prepare.session_gap=50", "recommend.k=3",
                     f"recommend.allow={tmp_path}/allow.txt")  # fmt: skip
    (tmp_path / "allow.txt").write_text("i24\ni9\n")
    found, _ = made(allowed, folder)
    assert set(ids_of(found, "y")) == {9, 24}


def test_unknown_events_and_those_that_are_dropped(tmp_path: Path) -> None:
    """The log has view and buy; a weight of 0 drops an event, an unknown one is counted."""
    (tmp_path / "new.csv").write_text(
        "who,what,at,stars,type\na,i1,1,1,view\na,i2,2,1,buy\na,i3,3,1,wish\na,i4,4,1,\n"
    )
    columns = SOURCE.replace("}", ", event: type}")
    job, folder = prepared(
        tmp_path, f"recommend.histories={{files: {tmp_path}/new.csv, {columns}}}",
        "prepare.source.columns.event=event", "prepare.events={buy: 0}",
    )  # fmt: skip
    found, result = made(job, folder)
    assert ids_of(found, "a") == best(scores_of([1, 3, 4]), {1, 3, 4})
    assert result["interactions_with_unknown_events"] == 1
    assert result["rejected"] == {"dropped_event": 1}


def test_the_same_with_two_actors(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_people, "ROWS", 60)
    _, folder = prepared(tmp_path)
    write_table(folder, tmp_path / "new.parquet", shuffled=True)
    setting = settings_for(tmp_path / "new.parquet", ", format: parquet")
    made(job_at(tmp_path, setting), folder)
    parts = parts_of(folder)
    made(job_at(tmp_path, setting, "scale.actors=2"), folder)
    assert len(parts) > 5 and parts_of(folder) == parts


def test_mistakes(tmp_path: Path) -> None:
    job, folder = prepared(tmp_path)
    made(job, folder)
    before = parts_of(folder)
    (tmp_path / "new.csv").write_text("who,what,stars\nx,i1,5\n")
    (tmp_path / "bad.csv").write_text("who,what,at,stars\nx,i1,soon,5\n")
    for name, error, message in (
        ("new.csv", MissingColumnError, r"recommend\.histories\.columns\.timestamp"),
        ("no.csv", DataError, r"(?s)no such file.*recommend\.histories\.files"),
    ):
        with pytest.raises(error, match=message):
            recommend.run(job_at(tmp_path, settings_for(tmp_path / name)), folder, load=load_fake)
    assert parts_of(folder) == before
    with pytest.raises(EmptyLogError, match=r"(?s)no valid .* new people.*bad_timestamp 1.*soon"):
        recommend.run(job_at(tmp_path, settings_for(tmp_path / "bad.csv")), folder, load=load_fake)


def test_what_the_model_reads_must_be_there() -> None:
    job = """
name: a
prepare: {source: {files: log.csv, columns: {timestamp: t, rating: r}}}
model: {inputs: {rating: true}}
pretrain: {epochs: 1}
recommend: {histories: {files: new.csv}}
"""
    with pytest.raises(ConfigError, match=r"recommend\.histories\.columns\.rating names no column"):
        parse_job(job)
