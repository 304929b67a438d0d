"""The whole stage on randomly made dirty logs, with random settings, against plain pandas."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.prepare.reference import Row, expected, written
from tests.prepare.runs import make_job, prepared, write_csv

users = ["a", "b", "c", "dé", "10", "9"]
items = ["1", "2", "3", "10", "x"]
row = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["", *users * 3]),
        "item": st.sampled_from(["", *items * 3]),
        "rating": st.sampled_from(["", "0", "-0.0", "1", "1.0", "9", "x", "2", "3", "4"]),
        "timestamp": st.sampled_from(["", "1", "2", "2.5", "99", *map(str, range(3, 30))]),
    }
)
share = st.sampled_from([0.1, 0.25, 0.4])
split = st.one_of(
    st.just({"kind": "leave_one_out"}),
    st.fixed_dictionaries({"kind": st.sampled_from(["time", "ratio"]),
                           "validation": share, "test": share}),
)  # fmt: skip
clean = st.fixed_dictionaries(
    {
        "duplicates": st.sampled_from(["drop", "keep"]),
        "repeat_window": st.sampled_from([None, 0, 4]),
        "max_user_interactions": st.sampled_from([None, None, 12]),
        "min_user_interactions": st.sampled_from([1, 3, 5]),
        "min_item_interactions": st.sampled_from([1, 3, 5]),
        "rating_range": st.sampled_from([None, [0, 5]]),
        "time_range": st.sampled_from([None, [2, 50]]),
        "keep_rejected": st.booleans(),
    }
)
section = st.fixed_dictionaries(
    {
        "clean": clean,
        "split": split,
        "session_gap": st.sampled_from([None, None, 6]),
        "max_length": st.sampled_from([None, None, 3]),
        "longer": st.sampled_from(["windows", "last"]),
        "vocabulary": st.fixed_dictionaries({"of": st.sampled_from(["train", "all"])}),
        "privacy": st.fixed_dictionaries({"min_item_users": st.sampled_from([1, 1, 3, 6])}),
    }
)


# Enough users of enough items that nothing drops them, so that something is left to train on.
SURE = [
    {"user": f"sure{u}", "item": f"s{i}", "rating": "3", "timestamp": str(3 + 2 * i + u % 3)}
    for u in range(6)
    for i in range(6)
]


@given(
    log=st.lists(row, min_size=1, max_size=120),
    settings_=section,
    range_bytes=st.sampled_from([150, 10_000]),
)
@settings(
    phases=[Phase.generate], max_examples=60, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_counts_ids_and_splits_are_those_of_the_reference(
    log: list[Row], settings_: dict[str, Any], range_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        log = [*log, *SURE]
        job = make_job(tmp, {"files": write_csv(tmp / "log.csv", log)}, **settings_)
        found = expected(job, log)
        assume(sum(found.items.values()))
        manifest, prepare = prepared(job, range_bytes=range_bytes)
        assert written(prepare) == found.histories
        assert manifest.rows_rejected == dict(found.rejected)
        vocabulary = pq.read_table(prepare / "vocabulary/item.parquet").to_pylist()
        assert {v["external_id"]: v["count"] for v in vocabulary} == found.items
        counts = [v["count"] for v in vocabulary]
        assert counts == sorted(counts, reverse=True)
        assert manifest.histories == sum(map(len, found.histories.values()))
        assert manifest.users == len(found.histories)
        if settings_["clean"]["keep_rejected"] and found.rejected:
            dropped = pq.read_table(prepare / "rejected")["reason"].value_counts().to_pylist()
            assert {d["values"]: d["counts"] for d in dropped} == dict(found.rejected)
