from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist.config.prepare import Prepare
from p5dist.prepare.cleaning import clean
from tests.prepare.reference import judge

FIELDS = ("user", "item", "timestamp", "rating")
ids = st.sampled_from(["", "NULL", r"\N", "NA", "None", " ", "7", "é", "nan"])
number = st.one_of(
    st.sampled_from(
        ["", "0", "5", "-1", ".5", "5.", "1e3", "1e99", "+1", "x", "1_0", "0x1", "inf", "NaN",
         " 3 ", "1 2", "٣", "100", "999", "1000", "1001", "1.5", "-0.5", "12345678901234567890"]
    ),
    st.integers(-2000, 2000).map(str),
    st.floats(-2000, 2000).map(lambda x: f"{x:.2f}"),
)  # fmt: skip
rows = st.lists(st.tuples(ids, ids, number, number), max_size=12)


def make(unit: str = "s", **options: Any) -> Prepare:
    source = {
        "files": "unused",
        "columns": {name: name for name in FIELDS},
        "timestamp_unit": unit,
    }
    return Prepare.model_validate({"source": source, "clean": options})


@settings(max_examples=100, deadline=None)
@given(rows, st.sampled_from(["s", "ms"]), st.booleans())
def test_every_row_is_kept_or_has_the_first_reason(
    found: list[tuple[str, ...]], unit: str, ranges: bool
) -> None:
    options = {"rating_range": (0.7, 5), "time_range": (-1, 1000)} if ranges else {}
    prepare = make(unit, keep_rejected=True, **options)
    raw = pa.table({f: pa.array([r[i] for r in found], pa.string()) for i, f in enumerate(FIELDS)})
    result = clean(raw, prepare)
    reasons: dict[str, int] = {}
    kept, dropped = [], []
    for n, values in enumerate(found):
        row = dict(zip(FIELDS, values, strict=True))
        reason, time, rating = judge(row, prepare.clean, unit)
        if reason is None:
            kept.append((*values[:2], time, rating, n))
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
            dropped.append((*values, reason))
    got = [
        (
            r["user"],
            r["item"],
            r["timestamp"],
            None if math.isnan(r["rating"]) else r["rating"],
            r["row"],
        )
        for r in result.rows.to_pylist()
    ]
    assert [(*g[:3], g[4]) for g in got] == [(*k[:3], k[4]) for k in kept]
    for g, k in zip(got, kept, strict=True):
        assert (g[3] is None) == (k[3] is None)
        assert g[3] is None or math.isclose(g[3], k[3], rel_tol=1e-6, abs_tol=1e-30)
    assert result.rejected == reasons
    assert [
        (*(r[f] for f in FIELDS), r["reason"]) for r in result.rejected_rows.to_pylist()
    ] == dropped


def test_nulls_of_typed_files_are_nulls_too() -> None:
    raw = pa.table(
        {
            "user": ["a", None, "b", "c"],
            "item": ["x", "x", None, "x"],
            "timestamp": ["1", "1", "1", None],
            "rating": pa.array([None, "1", "1", "1"]),
        }
    )
    result = clean(raw, make())
    assert result.rejected == {"null_user": 1, "null_item": 1, "bad_timestamp": 1}
    assert result.rows["user"].to_pylist() == ["a"]
    assert math.isnan(result.rows["rating"][0].as_py())


def test_ranges_hold_both_ends_in_full_precision() -> None:
    # 0.7 as float32 is less than 0.7.
    raw = pa.table(
        {
            "user": ["a"] * 3,
            "item": ["b"] * 3,
            "timestamp": ["10", "20", "21"],
            "rating": ["0.7"] * 3,
        }
    )
    result = clean(raw, make(rating_range=(0.7, 1), time_range=(10, 20)))
    assert result.rows["timestamp"].to_pylist() == [10, 20]
    assert result.rejected == {"time_out_of_range": 1}
