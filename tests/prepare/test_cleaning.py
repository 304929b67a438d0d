from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from p5dist.config.prepare import Prepare
from p5dist.prepare.cleaning import Cleaned, clean
from p5dist.prepare.layout import Layout
from tests.prepare.reference import SECOND, judge

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


def make(unit: str = "s", columns: Any = FIELDS, events: Any = None, **options: Any) -> Prepare:
    names = dict(zip(columns, columns, strict=True)) if isinstance(columns, tuple) else columns
    source = {"files": "unused", "columns": names, "timestamp_unit": unit}
    return Prepare.model_validate({"source": source, "clean": options, "events": events})


def cleaned(raw: dict[str, Any], prepare: Prepare, **id_types: pa.DataType) -> Cleaned:
    """Of columns under our names; a log that has users and items only if no others are given."""
    n = len(next(iter(raw.values())))
    table = pa.table({"user": ["u"] * n, "item": ["i"] * n} | raw)
    types = {"user": pa.string(), "item": pa.string()} | id_types
    result = clean(table, prepare, Layout.of_log(prepare.source, types))
    assert len(result.rows) + sum(result.rejected.values()) == n
    return result


@settings(max_examples=100, deadline=None)
@given(rows, st.sampled_from(["s", "ms"]), st.booleans())
def test_every_row_is_kept_or_has_the_first_reason(
    found: list[tuple[str, ...]], unit: str, ranges: bool
) -> None:
    options = {"rating_range": (0.7, 5), "time_range": (-1, 1000)} if ranges else {}
    prepare = make(unit, keep_rejected=True, **options)
    raw = {f: pa.array([r[i] for r in found], pa.string()) for i, f in enumerate(FIELDS)}
    result = cleaned(raw, prepare)
    reasons: dict[str, int] = {}
    kept, dropped = [], []
    for values in found:
        row = dict(zip(FIELDS, values, strict=True))
        reason, time, rating = judge(row, prepare)
        if reason is None:
            kept.append((*values[:2], time, rating))
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
            dropped.append((*values, reason))
    got = result.rows.to_pylist()
    assert [(r["user"], r["item"], r["timestamp"]) for r in got] == [k[:3] for k in kept]
    for row, k in zip(got, kept, strict=True):
        assert math.isnan(row["rating"]) == (k[3] is None)
        assert k[3] is None or math.isclose(row["rating"], k[3], rel_tol=1e-6, abs_tol=1e-30)
        assert (row["raw_row"]["user"], row["raw_row"]["item"]) == k[:2]
    assert result.rejected == reasons
    assert [
        (*(r[f] for f in FIELDS), r["reason"]) for r in result.rejected_rows.to_pylist()
    ] == dropped


def test_nulls_of_typed_columns() -> None:
    raw = {
        "user": pa.array([1, None, 3, 4, 5]),
        "item": pa.array([7, 7, None, 7, 7], pa.int32()),
        "timestamp": pa.array([10, 10, 10, None, 10]),
        "rating": pa.array([None, 1.0, 1.0, 1.0, math.inf]),
    }
    result = cleaned(raw, make(), user=pa.int64(), item=pa.int64())
    assert result.rejected == {"null_user": 1, "null_item": 1, "bad_timestamp": 1, "bad_rating": 1}
    assert result.rows.schema.types == [pa.int64(), pa.int64(), pa.int64(), pa.float32()]
    assert result.rows["user"].to_pylist() == [1] and result.rows["item"].to_pylist() == [7]
    assert math.isnan(result.rows["rating"][0].as_py())


def test_ranges_hold_both_ends_in_the_precision_of_the_log() -> None:
    # 0.7 as float32 is less than 0.7.
    for ratings in (["0.7"] * 3, [0.7] * 3, pa.array([0.7] * 3, pa.float32())):
        raw = {"timestamp": ["10", "20", "21"], "rating": ratings}
        result = cleaned(raw, make(rating_range=(0.7, 1), time_range=(10, 20)))
        assert result.rows["timestamp"].to_pylist() == [10 * SECOND, 20 * SECOND]
        assert result.rejected == {"time_out_of_range": 1}


FIRST, LAST = -62135596800 * SECOND, 253402300800 * SECOND - 1
"""The first microsecond of year 1 and the last of year 9999."""


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("s", pa.array([-62135596800, -1, 253402300799]), [FIRST, -SECOND, LAST - SECOND + 1]),
        ("s", pa.array([1714521600.25, -0.5, 0.000001]), [1714521600_250_000, -500_000, 1]),
        ("ms", pa.array([-62135596800_000, -1, 999]), [FIRST, -1000, 999_000]),
        ("ms", pa.array([1714521600_123.456, -0.5]), [1714521600_123_456, -500]),
        ("us", pa.array([-62135596800_000_000, -1, LAST]), [FIRST, -1, LAST]),
        # Nanoseconds are rounded to the nearest microsecond, halves up.
        ("ns", pa.array([1714521600_000_000_499, 1500, -500, -501, 2**63 - 1]),
         [1714521600_000_000, 2, 0, -1, 9223372036854776]),
        ("s", pa.array([-62135596800_000_000, -1, LAST], pa.timestamp("us")), [FIRST, -1, LAST]),
        ("iso", pa.array([-62135596800, -1], pa.timestamp("s", "Asia/Tokyo")), [FIRST, -SECOND]),
        ("iso", pa.array([1_999, -1], pa.timestamp("ns")), [2, 0]),
        ("s", pa.array([1714521600], pa.uint64()), [1714521600 * SECOND]),
        ("s", pa.array([Decimal("1714521600.250000")]), [1714521600_250_000]),
    ],
)  # fmt: skip
def test_times_are_kept_to_the_microsecond(unit: str, values: Any, expected: list[int]) -> None:
    result = cleaned({"timestamp": values}, make(unit, FIELDS[:3]))
    assert result.rows["timestamp"].to_pylist() == expected
    if unit != "iso" and not pa.types.is_timestamp(values.type):
        again = cleaned({"timestamp": values.cast(pa.string())}, make(unit, FIELDS[:3]))
        assert again.rows["timestamp"] == result.rows["timestamp"]


def test_iso_times() -> None:
    moments = {
        "0001-01-01": FIRST,
        "1969-12-31T23:59:59.5": -500_000,
        "1970-01-01T00:59:59.25+01:00": -750_000,
        "1969-12-31T19:00:00,000001-0500": 1,
        "9999-12-31T23:59:59.999999Z": LAST,
        "2019-10-01 00:00:00 UTC": 1569888000 * SECOND,
        "2019-10-01 00:00:00.123456789 GMT": 1569888000_123_457,
        "2019-10-01T00:00Z": 1569888000 * SECOND,
    }
    for texts in (list(moments), *([text, text] for text in moments)):
        result = cleaned({"timestamp": texts}, make("iso", FIELDS[:3]))
        assert result.rows["timestamp"].to_pylist() == [moments[text] for text in texts]


def test_days() -> None:
    for days in (pa.array([19844, -1], pa.date32()), pa.array([19844, -1], pa.date32()).cast(
        pa.date64())):  # fmt: skip
        found = cleaned({"timestamp": days}, make("ms", FIELDS[:3])).rows["timestamp"]
        assert found.to_pylist() == [19844 * 86400 * SECOND, -86400 * SECOND]


def test_what_is_no_time() -> None:
    # Beyond 2^62 microseconds, in numbers and in text.
    late = 2**62 // SECOND + 1
    for values in (pa.array([late, 5]), [str(late), "5"], [4.7e12, 5.0],
                   pa.array([2**63, 5], pa.uint64()), [str(10**25), "5"]):  # fmt: skip
        result = cleaned({"timestamp": values}, make("s", FIELDS[:3]))
        assert result.rejected == {"bad_timestamp": 1}
        assert result.rows["timestamp"].to_pylist() == [5 * SECOND]
    good = ["2024-02-29", " 2024-02-29T00:00 ", "2024-02-29T02:30:00+02:30", "2024-02-29 00Z"]
    bad = ["2023-02-29", "2024-13-01", "2024-02-29T24:00:00", "2024-2-9", "20240229", "soon", "",
           None, "2024-02-29T00:00:60", "2024-02-29+01:00", "1709164800",
           "2024-02-29 00:00:00 CET"]  # fmt: skip
    result = cleaned({"timestamp": good + bad}, make("iso", FIELDS[:3]))
    assert result.rejected == {"bad_timestamp": len(bad)}
    assert result.rows["timestamp"].to_pylist() == [1709164800 * SECOND] * 4


def test_iso_times_agree_with_python() -> None:
    draw = np.random.default_rng(0)
    texts, expected = [], []
    for number in draw.integers(FIRST, LAST, 300).tolist():
        time = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=number)
        texts.append(time.isoformat(sep=" " if number % 2 else "T"))
        expected.append(number)
    for some in (texts, [*texts, "2024-05-01"]):
        found = cleaned({"timestamp": some}, make("iso", FIELDS[:3])).rows["timestamp"].to_pylist()
        assert found[:300] == expected


def test_events_and_their_weights() -> None:
    columns = ("user", "item", "event")
    values = ["view", "", None, "buy", "NULL", "fav"]
    for event in (pa.array(values), pa.array(values).dictionary_encode()):
        assert cleaned({"event": event}, make(columns=columns)).rows["event"].to_pylist() == [
            "view", "", "", "buy", "", "fav",
        ]  # fmt: skip
        found = cleaned({"event": event}, make(columns=columns, events={"view": 0, "buy": 3}))
        assert found.rows["event"].to_pylist() == ["", "", "buy", "", "fav"]
        assert found.rejected == {"dropped_event": 1}
        found = cleaned({"event": event}, make(columns=columns, events={"*": 0, "fav": 1}))
        assert found.rows["event"].to_pylist() == ["fav"]
        assert found.rejected == {"dropped_event": 5}
    numbers = cleaned({"event": pa.array([3, None, 1])}, make(columns=columns, events={"3": 0}))
    assert numbers.rows["event"].to_pylist() == ["", "1"]


@pytest.mark.parametrize("weight", [-1, math.inf, math.nan])
def test_weights_are_finite_and_not_negative(weight: float) -> None:
    with pytest.raises(ValidationError, match=r"events\.view"):
        make(columns=("user", "item", "event"), events={"view": weight})
    with pytest.raises(ValidationError, match=r"source\.columns\.event, which names no column"):
        make(events={"view": 1})


def test_context_columns() -> None:
    columns = {
        "user": "u", "item": "i",
        "context": {"device": {}, "price": {"kind": "numeric", "bins": [5, 10]}},
    }  # fmt: skip
    devices, prices = ["tv", None, " tv ", "NULL"], [5.0, 5.5, None, 99.0]
    expected = ["(-inf, 5]", "(5, 10]", "", "(10, inf]"]
    for price in (
        pa.array(prices), pa.array(["5", "5.5", "dear", " 99 "]),
        pa.array(["5", "5.5", "dear", " 99 "]).dictionary_encode(),
    ):  # fmt: skip
        found = cleaned({"context.device": devices, "context.price": price}, make(columns=columns))
        assert found.rows["context.device"].to_pylist() == ["tv", "", "tv", ""]
        assert found.rows["context.price"].to_pylist() == expected
    with pytest.raises(ValidationError, match="'tags' is of kind 'multi', but a context column"):
        make(columns={"user": "u", "item": "i", "context": {"tags": {"kind": "multi"}}})


def test_rejected_rows_of_typed_columns_are_text() -> None:
    raw = {"user": pa.array([1, None]), "timestamp": pa.array([5, 1500], pa.timestamp("ms")),
           "rating": pa.array([1.5, 2.0])}  # fmt: skip
    result = cleaned(raw, make(keep_rejected=True), user=pa.int64())
    assert result.rejected_rows.to_pylist() == [
        {"user": None, "item": "i", "timestamp": "1970-01-01 00:00:01.500", "event": None,
         "rating": "2", "reason": "null_user"}
    ]  # fmt: skip
    assert result.rows["raw_row"].to_pylist() == [
        {
            "user": "1",
            "item": "i",
            "timestamp": "1970-01-01 00:00:00.005",
            "event": None,
            "rating": "1.5",
        }
    ]


def test_ids_of_bytes() -> None:
    uuid = "00112233-4455-6677-8899-aabbccddeeff"
    raw = bytes.fromhex(uuid.replace("-", ""))
    plain = pa.array([b"x" * 16, raw, None], pa.binary(16))
    extension = pa.ExtensionArray.from_storage(pa.uuid(), plain)
    for column in (plain[1:], extension[1:], pa.chunked_array([plain[1:2], plain[2:]])):
        result = cleaned({"user": column}, make(columns=FIELDS[:2]))
        assert result.rows["user"].to_pylist() == [uuid]
        assert result.rejected == {"null_user": 1}
