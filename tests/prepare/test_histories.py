"""Reading, cleaning and grouping as the tasks do it, but in this process."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist import columns as c
from p5dist.config import RunConfig
from p5dist.config.prepare import GivenSplit, LeaveOneOut
from p5dist.prepare import tasks
from p5dist.prepare.histories import Grouped, gather, group
from p5dist.prepare.reading import Layout
from p5dist.prepare.sources import Inputs, plan_units
from p5dist.prepare.split import split_codes
from p5dist.storage import Folder
from tests.prepare.reference import History, Row, expected

FIELDS = ("user", "item", "rating", "timestamp")
SPLITS = ("train", "validation", "test")

row = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["", "a", "b", "c", "dé"]),
        "item": st.sampled_from(["", "1", "2", "3", "10"]),
        "rating": st.sampled_from(["", "0", "-0.0", "1", "1.0", "9", "x"]),
        "timestamp": st.sampled_from(["", "1", "2", "2.5", "3", "99"]),
    }
)


def make_job(folder: Path, **prepare: Any) -> RunConfig:
    source = {"files": str(folder / "log.csv"), "columns": {name: name for name in FIELDS}}
    prepare |= {"source": source, "shards": 2}
    return RunConfig.model_validate({"name": "run", "storage": str(folder), "prepare": prepare})


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as f:
        out = csv.DictWriter(f, FIELDS)
        out.writeheader()
        out.writerows(rows)


def grouped_shards(job: RunConfig, unit_bytes: int) -> tuple[list[Grouped], Counter[str]]:
    config, nowhere = job.prepare, Folder.open("nowhere")
    inputs, layout = Inputs.find(config), Layout.of_log(config.source)
    units = plan_units(inputs.log, layout, unit_bytes)
    units += plan_units(inputs.test, layout, unit_bytes, test=True)
    read = [tasks.read(unit, config, nowhere, 0) for unit in units]
    rejected = sum((Counter(counts.rejected) for counts, *_ in read), Counter[str]())
    first = np.cumsum([0, *(counts.rows for counts, *_ in read)]).tolist()
    shards = []
    for shard in range(config.shards):
        pieces = [r[1 + shard] for r in read]
        table = gather(pieces, first[:-1], [unit.test for unit in units])
        shards.append(group(table, config, job.seed))
        rejected += Counter(shards[-1].rejected)
    return shards, rejected


def histories(shards: list[Grouped]) -> dict[str, History]:
    found = {}
    for shard in shards:
        ends = np.cumsum(shard.lengths)
        items = shard.items.to_pylist()
        for user, a, b in zip(shard.users.to_pylist(), ends - shard.lengths, ends, strict=True):
            found[user] = [
                (items[shard.item[t]], int(shard.timestamp[t]),
                 None if np.isnan(shard.rating[t]) else float(shard.rating[t]),
                 SPLITS[shard.split[t]])
                for t in range(a, b)
            ]  # fmt: skip
    return found


@settings(max_examples=60, deadline=None)
@given(
    log=st.lists(row, max_size=40),
    test=st.none() | st.lists(row, max_size=10),
    duplicates=st.sampled_from(["drop", "keep"]),
    least=st.integers(1, 3),
    unit_bytes=st.sampled_from([20, 100, 10_000]),
)
def test_any_log_agrees_with_the_reference(
    log: list[Row], test: list[Row] | None, duplicates: str, least: int, unit_bytes: int
) -> None:
    clean = {
        "rating_range": [0, 5], "time_range": [1, 10], "duplicates": duplicates,
        "min_user_interactions": least,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "log.csv", log)
        split = {"kind": "leave_one_out"}
        if test is not None:
            write(folder / "test.csv", test)
            split = {"kind": "given", "test": str(folder / "test.csv")}
        job = make_job(folder, clean=clean, split=split)
        shards, rejected = grouped_shards(job, unit_bytes)
    wanted, reasons, _ = expected(job, log, test)
    assert histories(shards) == wanted
    assert rejected == reasons
    leaked = {(u, i, t) for u, h in wanted.items() for i, t, _, s in h if s == "train"} & {
        (u, i, t) for u, h in wanted.items() for i, t, _, s in h if s == "test"
    }
    assert sum(s.leaked for s in shards) == (len(leaked) if test is not None else 0)


def test_a_repeat_in_the_test_files_is_no_duplicate_but_other_events_are_not_one_either() -> None:
    config = make_job(Path("unused")).prepare
    table = pa.table(
        {
            c.USER: ["u"] * 5,
            c.ITEM: ["i"] * 5,
            c.TIMESTAMP: [1] * 5,
            c.EVENT: ["view", "buy", "view", "", ""],
            c.RATING: pa.array([np.nan] * 5, pa.float32()),
            "row": [0, 1, 2, 3, 4],
        }
    )
    parts = [table.slice(0, 3), table.slice(3)]
    grouped = group(gather(parts, [0, 0], [False, False]), config, 1)
    assert grouped.rejected == {"duplicate": 2}
    assert [grouped.events.to_pylist()[e] for e in grouped.event] == ["view", "buy", ""]


def test_rare_items_go_before_users_are_counted() -> None:
    config = make_job(Path("unused"), clean={"min_user_interactions": 2}).prepare
    table = pa.table(
        {
            c.USER: ["a", "a", "b", "b", "c"],
            c.ITEM: ["x", "y", "y", "y", "y"],
            c.TIMESTAMP: [1, 2, 3, 4, 5],
            c.RATING: pa.array([1] * 5, pa.float32()),
            "row": [0, 1, 2, 3, 4],
        }
    )
    grouped = group(gather([table], [0], [False]), config, 1, pa.array(["x"]))
    assert histories([grouped]) == {"b": [("y", 3, 1.0, "train"), ("y", 4, 1.0, "train")]}
    assert grouped.rejected == {"rare_item": 1, "rare_user": 2}


@pytest.mark.parametrize(
    ("lengths", "codes"),
    [([3, 1, 2, 4], [0, 1, 2, 0, 0, 0, 0, 0, 1, 2]), ([], []), ([2], [0, 0]), ([3], [0, 1, 2])],
)
def test_leave_one_out(lengths: list[int], codes: list[int]) -> None:
    test = np.zeros(sum(lengths), np.bool_)
    assert split_codes(LeaveOneOut(), np.array(lengths, np.int64), test).tolist() == codes
    given_split = GivenSplit(kind="given", test="unused")
    assert split_codes(given_split, np.array(lengths, np.int64), ~test).tolist() == [2] * len(test)
