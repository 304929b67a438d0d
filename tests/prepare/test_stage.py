"""The whole stage on Ray: small logs by hand, a dirty log and real data against the reference."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.reference import Row, expected, in_seconds, written
from tests.prepare.runs import FIELDS, dirty_rows, make_job, prepared, write_csv


def test_leave_one_out_by_hand(tmp_path: Path) -> None:
    rows = [
        ("a", "x", 30), ("b", "y", 5), ("a", "y", 10), ("a", "z", 20),
        ("b", "x", 6), ("a", "x", 10), ("c", "w", 1), ("c", "y", 1), ("c", "x", 1),
    ]  # fmt: skip
    log = write_csv(
        tmp_path / "log.csv",
        [{"user": u, "item": i, "rating": "", "timestamp": str(t)} for u, i, t in rows],
    )
    manifest, folder = prepared(make_job(tmp_path, {"files": log}, vocabulary={"of": "all"}))
    histories = {
        "a": [[("y", 10, None, "train"), ("x", 10, None, "train"),
               ("z", 20, None, "validation"), ("x", 30, None, "test")]],
        "b": [[("y", 5, None, "train"), ("x", 6, None, "train")]],
        "c": [[("w", 1, None, "train"), ("y", 1, None, "validation"), ("x", 1, None, "test")]],
    }  # fmt: skip
    assert in_seconds(written(folder)) == histories
    # Training counts: x and y 2, w 1, z 0; ties by the external id.
    vocabulary = pq.read_table(folder / "vocabulary/item.parquet").to_pylist()
    assert [(v["external_id"], v["count"]) for v in vocabulary] == [
        ("x", 2), ("y", 2), ("w", 1), ("z", 0),
    ]  # fmt: skip
    users = pq.read_table(folder / "vocabulary/user.parquet").to_pylist()
    assert {u["external_id"]: u["count"] for u in users} == {"a": 2, "b": 2, "c": 1}
    assert manifest.rows_by_split == {"train": 5, "validation": 2, "test": 2}
    assert (manifest.users, manifest.items, manifest.longest_history) == (3, 4, 4)
    assert manifest.rating_mean is None and manifest.rating_range is None
    assert manifest.made_from["item vocabulary"] == "all interactions"
    # Nobody trains on z: unless the job says so, there is no such item.
    manifest, folder = prepared(make_job(tmp_path, {"files": log}))
    del histories["a"][0][2]
    assert in_seconds(written(folder)) == histories
    items = pq.read_table(folder / "vocabulary/item.parquet")["external_id"].to_pylist()
    assert items == ["x", "y", "w"]
    assert manifest.rows_rejected == {"unknown_item": 1}
    assert manifest.unknown_items_by_split == {"train": 0, "validation": 1, "test": 0}
    assert manifest.made_from["item vocabulary"] == "training interactions"


@pytest.mark.parametrize(("least_of_user", "least_of_item"), [(1, 1), (20, 22)])
def test_dirty_log_agrees_with_the_reference(
    tmp_path: Path, least_of_user: int, least_of_item: int
) -> None:
    rows = dirty_rows(seed=least_of_item, n=1500)
    log = write_csv(tmp_path / "log.csv", rows)
    clean = {
        "rating_range": [1, 5], "time_range": [100, 2000], "keep_rejected": True,
        "min_user_interactions": least_of_user, "min_item_interactions": least_of_item,
    }  # fmt: skip
    job = make_job(tmp_path, {"files": log}, clean=clean)
    manifest, folder = prepared(job)
    reference = expected(job, rows)
    rejected, items = reference.rejected, reference.items
    assert written(folder) == reference.histories
    assert manifest.rows_rejected == dict(rejected)
    assert set(rejected) >= {"null_user", "null_item", "bad_timestamp", "time_out_of_range",
                             "bad_rating", "rating_out_of_range", "duplicate"}  # fmt: skip
    vocabulary = pq.read_table(folder / "vocabulary/item.parquet")
    counts = dict(
        zip(vocabulary["external_id"].to_pylist(), vocabulary["count"].to_pylist(), strict=True)
    )
    assert counts == dict(items)
    assert vocabulary["count"].to_pylist() == sorted(counts.values(), reverse=True)
    # The rows in rejected/ are the dropped ones, as they were.
    dropped = pq.read_table(folder / "rejected").to_pylist()
    assert len(dropped) == rejected.total()
    as_read = {tuple(row[f] for f in FIELDS) for row in rows}
    assert {tuple(row[f] for f in FIELDS) for row in dropped} <= as_read
    if least_of_item > 1:
        assert {"rare_item", "rare_user"} <= set(rejected)


def test_shards_are_the_same_bytes_however_the_log_is_read(tmp_path: Path) -> None:
    rows = dirty_rows(seed=5, n=1200)
    for row in rows:
        row["user"] = row["user"].replace(",", "").replace('"', "")
    whole = write_csv(tmp_path / "whole.csv", rows)
    parts = [write_csv(tmp_path / f"part-{i}.csv", rows[i * 300 : (i + 1) * 300]) for i in range(4)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(
        pa.table({f: [row[f] for row in rows] for f in FIELDS}),
        tmp_path / "log.parquet",
        row_group_size=100,
    )
    ways: list[tuple[dict[str, Any], int]] = [
        ({"files": whole}, 1 << 20),
        ({"files": whole}, 5000),
        ({"files": str(tmp_path / "part-*.csv")}, 3000),
        ({"files": parts}, 1 << 20),
        ({"files": str(tmp_path / "log.jsonl"), "format": "jsonl"}, 20_000),
        ({"files": str(tmp_path / "log.parquet"), "format": "parquet"}, 2_000),
    ]
    results = []
    for source, range_bytes in ways:
        _, folder = prepared(make_job(tmp_path, source), range_bytes=range_bytes)
        names = ("shards", "vocabulary")
        results.append({f.name: f.read_bytes() for n in names for f in (folder / n).iterdir()})
    assert len(results[0]) == 5  # 3 shards, 2 vocabularies
    for way, result in zip(ways, results, strict=True):
        assert result == results[0], way


def test_a_log_in_another_order_than_that_of_time_is_told(tmp_path: Path) -> None:
    times = [1, 2, 3, 4, 9, 8, 7, 6, 5]  # 4 of 9 are behind a later one
    rows = [{"user": "a", "item": str(t), "rating": "", "timestamp": str(t)} for t in times]
    for order, told in ((rows, True), (sorted(rows, key=lambda r: r["timestamp"]), False)):
        job = make_job(tmp_path, {"files": write_csv(tmp_path / "log.csv", order)})
        _, folder = prepared(job)
        warnings = json.loads((folder / "profile.json").read_text())["warnings"]
        found = [w for w in warnings if w.startswith("the log is not in the order of time: 44%")]
        assert bool(found) == told


def test_given_split_and_its_leaks(tmp_path: Path) -> None:
    def rows(*triples: tuple[str, str, int]) -> list[Row]:
        return [{"user": u, "item": i, "rating": "4", "timestamp": str(t)} for u, i, t in triples]

    log = rows(("1", "10", 5), ("1", "11", 7), ("2", "10", 1), ("2", "10", 1))
    validation = rows(("2", "10", 1), ("1", "13", 8), ("1", "13", 8))
    test = rows(("1", "9", 6), ("2", "10", 1), ("3", "12", 2))
    split = {
        "kind": "given",
        "validation": write_csv(tmp_path / "b.csv", validation),
        "test": [write_csv(tmp_path / "c.csv", test[:1]), write_csv(tmp_path / "d.csv", test[1:])],
    }
    source = {"files": write_csv(tmp_path / "a.csv", log)}
    manifest, folder = prepared(make_job(tmp_path, source, split=split, vocabulary={"of": "all"}))
    assert in_seconds(written(folder)) == {
        "1": [[("10", 5, 4.0, "train"), ("9", 6, 4.0, "test"), ("11", 7, 4.0, "train"),
               ("13", 8, 4.0, "validation")]],
        "2": [[("10", 1, 4.0, "train"), ("10", 1, 4.0, "validation"), ("10", 1, 4.0, "test")]],
        "3": [[("12", 2, 4.0, "test")]],
    }  # fmt: skip
    assert manifest.rows_by_split == {"train": 3, "validation": 2, "test": 3}
    assert manifest.rows_rejected == {"duplicate": 2}  # one of the log, one of validation
    assert f"those of {tmp_path}/b.csv validate" in manifest.split
    items = pq.read_table(folder / "vocabulary/item.parquet").to_pylist()
    # Whole numbers are compared as numbers: 9 before 12.
    assert [(i["external_id"], i["count"]) for i in items] == [
        ("10", 2), ("11", 1), ("9", 0), ("12", 0), ("13", 0),
    ]  # fmt: skip
    warnings = json.loads((folder / "profile.json").read_text())["warnings"]
    assert [w for w in warnings if w.startswith("2 (user, item, time) of the files that validate")]
    del split["validation"]
    manifest, _ = prepared(make_job(tmp_path, source, split=split, vocabulary={"of": "all"}))
    assert manifest.rows_by_split == {"train": 3, "validation": 0, "test": 3}


def test_ties_can_be_shuffled_by_the_seed(tmp_path: Path) -> None:
    rows = [
        {"user": f"u{u}", "item": str(i), "rating": "3", "timestamp": str(t)}
        for u in range(40)
        for t in (1, 2)
        for i in range(t * 10, t * 10 + 6)
    ]
    log = write_csv(tmp_path / "log.csv", rows)
    found = []
    for ties, seed in (("log", 1), ("shuffled", 1), ("shuffled", 1), ("shuffled", 2)):
        settings: dict[str, Any] = {"ties": ties, "vocabulary": {"of": "all"}}
        job = make_job(tmp_path, {"files": log}, **settings).model_copy(update={"seed": seed})
        _, folder = prepared(job)
        in_time = in_seconds(written(folder))
        found.append({u: [e[:2] for e in h] for u, (h,) in in_time.items()})
        warnings = json.loads((folder / "profile.json").read_text())["warnings"]
        assert any("shuffled" in w for w in warnings) == (ties == "log")
    in_order, one, again, two = found
    in_log = [(str(i), t) for t in (1, 2) for i in range(t * 10, t * 10 + 6)]
    assert all(h == in_log for h in in_order.values())
    assert one == again != two
    for h in one.values():
        assert sorted(h, key=lambda e: e[1]) == h and sorted(h) == sorted(in_log)
    # Not one order for all users, which a model could learn: 720 orders of six items.
    assert len({tuple(h[:6]) for h in one.values()}) > 30


def test_no_timestamp_no_rating_and_events(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    path.write_text("u2\tb\tview\nu1\ta\tbuy\nu2\ta\tview\nu2\tb\tview\nu1\tb\t\n")
    job = make_job(
        tmp_path,
        {
            "files": str(path), "format": "tsv", "names": ["u", "i", "what"],
            "columns": {"user": "u", "item": "i", "event": "what"},
        },
    )  # fmt: skip
    manifest, folder = prepared(job, range_bytes=12)
    # The row number is the time, so that nothing is a duplicate.
    assert written(folder) == {
        "u2": [[("b", 0, None, "train"), ("a", 2, None, "validation"), ("b", 3, None, "test")]],
        "u1": [[("a", 1, None, "train"), ("b", 4, None, "train")]],
    }
    assert manifest.rows_rejected == {}
    events = pq.read_table(folder / "vocabulary/event.parquet").to_pylist()
    # Each trains once, so that the name decides.
    assert [(e["id"], e["external_id"], e["weight"]) for e in events] == [
        (1, "buy", 1.0), (2, "view", 1.0),
    ]  # fmt: skip
    by_user = {}
    for shard in (folder / "shards").iterdir():
        by_user |= {len(r["item"]): r["event"] for r in pq.read_table(shard).to_pylist()}
    assert by_user == {3: [2, 2, 2], 2: [1, 0]}
    assert json.loads((folder / "profile.json").read_text())["per_day"]["day"] == []


def test_fingerprint_follows_content_and_settings(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", dirty_rows(2, 30))
    job = make_job(tmp_path, {"files": log})
    first = prepared(job)[0].fingerprint
    assert prepared(job)[0].fingerprint == first
    assert prepared(make_job(tmp_path, {"files": log}, ties="shuffled"))[0].fingerprint != first
    text = Path(log).read_text()
    Path(log).write_text(text.replace("1001", "1007", 1))  # the same size
    assert prepared(job)[0].fingerprint != first


def test_movielens_agrees_with_the_reference(tmp_path: Path, real_data: Path) -> None:
    log = real_data / "ml-100k" / "u.data"
    names = ["user", "item", "rating", "timestamp"]
    source = {"files": str(log), "format": "tsv", "names": names}
    job = make_job(
        tmp_path, source, clean={"min_item_interactions": 5, "min_user_interactions": 25}
    )
    manifest, folder = prepared(job)
    rows = [
        dict(zip(names, line.split("\t"), strict=True)) for line in log.read_text().splitlines()
    ]
    reference = expected(job, rows)
    rejected, items = reference.rejected, reference.items
    histories = [h for user in reference.histories.values() for h in user]
    assert written(folder) == reference.histories
    assert manifest.rows_rejected == dict(rejected)
    assert rejected["rare_item"] > 0 and rejected["rare_user"] > 0
    profile = json.loads((folder / "profile.json").read_text())
    assert sum(profile["lengths"]["counts"]) == profile["users"] == len(histories)
    assert profile["item_counts"]["count"][0] == max(items.values())
    assert sum(profile["per_day"]["count"]) == manifest.rows_kept
    assert profile["per_day"]["day"][0] == "1997-09-20"
    tied = sum(a[1] == b[1] for h in histories for a, b in pairwise(h))
    assert profile["tied_share"] == pytest.approx(tied / manifest.rows_kept)
    mean = [r for h in histories for _, _, r, s in h if s == "train" and r is not None]
    assert manifest.rating_mean == pytest.approx(sum(mean) / len(mean))
    assert manifest.rating_range == (1, 5)
