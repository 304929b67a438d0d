"""One read unit → valid interactions; every dropped row has exactly one reason.

The reasons are checked in the order of REASONS, the first that applies counts. Those of the first
group are judged row by row here, those of the second group per user (:mod:`.histories`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist import columns as c
from p5dist.config.prepare import Prepare
from p5dist.prepare.arrays import Array, Bools, Ints, encode, is_integer_text

ROW_REASONS = (
    "malformed",
    "null_user",
    "null_item",
    "bad_timestamp",
    "time_out_of_range",
    "bad_rating",
    "rating_out_of_range",
)
USER_REASONS = ("duplicate", "rare_item", "rare_user")
REASONS = ROW_REASONS + USER_REASONS

ROW = "row"
RAW_TIMESTAMP, RAW_RATING = "raw_timestamp", "raw_rating"

_NULLS = pa.array(["", "NULL", "null", "NaN", "nan", r"\N"])
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?$"
_LATEST = 2.0**62


@dataclass(frozen=True)
class Cleaned:
    """What one unit gives."""

    rows: pa.Table
    """Valid rows: user, item, timestamp (int64 seconds, if the log has it), event (text, if the
    log has it), rating (float32), row (int64 number in the unit)."""
    rejected: dict[str, int]
    rejected_rows: pa.Table
    """columns.REJECTED of all dropped rows that have fields."""


def clean(raw: pa.Table, prepare: Prepare) -> Cleaned:
    """Judge every row of ``raw`` (text columns under our names).

    Null is an absent or empty value, or one of NULL, null, NaN, nan, \\N. A null rating is no
    rating (NaN), not a bad one. Times may have fractions, which are cut off.
    """
    reason = np.zeros(len(raw), np.int8)

    def reject(name: str, bad: Bools) -> None:
        reason[(reason == 0) & bad] = REASONS.index(name) + 1

    reject("null_user", is_null(raw[c.USER]))
    reject("null_item", is_null(raw[c.ITEM]))
    found: dict[str, pa.ChunkedArray | pa.Array] = {c.USER: raw[c.USER], c.ITEM: raw[c.ITEM]}
    if c.TIMESTAMP in raw.column_names:
        time, bad = _seconds(raw[c.TIMESTAMP], _PER_SECOND[prepare.source.timestamp_unit])
        reject("bad_timestamp", bad)
        if prepare.clean.time_range is not None:
            low, high = prepare.clean.time_range
            reject("time_out_of_range", (time < low) | (time > high))
        found[c.TIMESTAMP] = pa.array(time)
    if c.EVENT in raw.column_names:
        null = pa.array(is_null(raw[c.EVENT]))
        found[c.EVENT] = pc.if_else(null, "", raw[c.EVENT])
    rating = np.full(len(raw), np.nan)
    if c.RATING in raw.column_names:
        rating, bad = _ratings(raw[c.RATING])
        reject("bad_rating", bad)
        if prepare.clean.rating_range is not None:
            low_rating, high_rating = prepare.clean.rating_range
            reject("rating_out_of_range", (rating < low_rating) | (rating > high_rating))
    found[c.RATING] = pa.array(rating.astype(np.float32))
    found[ROW] = pa.array(np.arange(len(raw), dtype=np.int64))
    if prepare.clean.keep_rejected:
        for name, column in ((RAW_TIMESTAMP, c.TIMESTAMP), (RAW_RATING, c.RATING)):
            found[name] = _column(raw, column)
    return _divide(raw, pa.table(found), reason, prepare.clean.keep_rejected)


def _divide(raw: pa.Table, rows: pa.Table, reason: Array, keep_rejected: bool) -> Cleaned:
    bad = pa.array(reason != 0)
    counts = np.bincount(reason, minlength=len(REASONS) + 1)[1:]
    rejected = {name: int(n) for name, n in zip(REASONS, counts, strict=True) if n}
    dropped = c.REJECTED.empty_table()
    if keep_rejected and rejected:
        names = pa.array(["", *REASONS]).take(pa.array(reason))
        fields = {n: _column(raw, n) for n in c.REJECTED.names[:-1]} | {c.REASON: names}
        dropped = pa.table(fields, schema=c.REJECTED).filter(bad)
    return Cleaned(rows.filter(pc.invert(bad)) if rejected else rows, rejected, dropped)


def _column(raw: pa.Table, name: str) -> pa.ChunkedArray:
    if name in raw.column_names:
        return raw[name]
    return pa.chunked_array([pa.nulls(len(raw), pa.string())])


def is_null(text: pa.ChunkedArray) -> Bools:
    """[n] whether each value is null, in the sense of :func:`clean`."""
    return np.asarray(pc.or_(pc.is_null(text), pc.is_in(text, value_set=_NULLS)))


def _seconds(text: pa.ChunkedArray, per_second: int) -> tuple[Ints, Bools]:
    """[n] whole seconds (0 where bad) and [n] whether the value is no time."""
    whole = is_integer_text(text)
    if not whole.all():
        text = pc.utf8_trim_whitespace(text)
        whole = is_integer_text(text)
    time: Ints = np.asarray(pc.if_else(pa.array(whole), text, "0").cast(pa.int64()))
    time = time // per_second
    bad = ~whole
    if bad.any():
        number, bad_number = numbers(text)
        number = np.floor(number / per_second)
        bad &= bad_number | ~(np.abs(number) < _LATEST)
        time = np.where(whole, time, np.where(bad, 0, number).astype(np.int64))
    return time, bad


def _ratings(text: pa.ChunkedArray) -> tuple[Array, Bools]:
    """[n] ratings (float64; NaN where there is none) and [n] whether the value is no number."""
    values, code = encode(pc.fill_null(text, ""))  # few values, many rows
    null = is_null(values)
    number, bad = numbers(pc.utf8_trim_whitespace(values))
    with np.errstate(over="ignore"):
        bad |= ~np.isfinite(number.astype(np.float32))
    return np.where(null | bad, np.nan, number)[code], (bad & ~null)[code]


def numbers(text: pa.ChunkedArray) -> tuple[Array, Bools]:
    """[n] numbers (float64; 0 where bad) and [n] whether the value is no decimal number."""
    good = pc.fill_null(pc.match_substring_regex(text, _NUMBER), False)
    number = np.asarray(pc.if_else(good, text, "0").cast(pa.float64()))
    return number, ~np.asarray(good)
