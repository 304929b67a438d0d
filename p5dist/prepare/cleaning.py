"""Raw rows → valid interactions; every dropped row has exactly one reason.

The reasons are checked in the order of REASONS, the first that applies counts. Those of the first
group are judged row by row here, those of the second group per user, item or history
(:mod:`.interactions`, :mod:`.histories`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from p5dist.config.prepare import Prepare
from p5dist.data import columns as c
from p5dist.data.jagged import Array, Bools
from p5dist.prepare.attribute_kinds.kind import kinds_of
from p5dist.prepare.layout import Layout
from p5dist.prepare.times import microseconds
from p5dist.prepare.values import (
    as_text,
    coded,
    is_null,
    ratings,
)

ROW_REASONS = (
    "malformed",
    "null_user",
    "null_item",
    "bad_timestamp",
    "time_out_of_range",
    "bad_rating",
    "rating_out_of_range",
    "dropped_event",
)
USER_REASONS = (
    "expired",
    "duplicate",
    "repeat",
    "bot",
    "rare_item",
    "few_users",
    "rare_user",
    "over_length",
    "after_test",
    "unknown_item",
)
REASONS = ROW_REASONS + USER_REASONS

RAW = "raw_row"
"""Column of the cleaned rows with what was read, a struct of columns.REJECTED without the reason;
only with clean.keep_rejected."""

OTHER_EVENTS = "*"
"""Key of prepare.events that stands for all kinds that are not named."""


@dataclass(frozen=True)
class Cleaned:
    """What a table of raw rows gives."""

    rows: pa.Table
    """Valid rows in the order of the log: user, item (the types of Layout.id_types), timestamp
    (int64 microseconds), event (text, "" for none), rating (float32, NaN for none), context.<name>
    (category or bin, "" for none), RAW; those that the log does not have are left out."""
    rejected: dict[str, int]
    examples: dict[str, str]
    """By reason, the first value that breaks the rule."""
    rejected_rows: pa.Table
    """columns.REJECTED of all dropped rows that have fields; empty without clean.keep_rejected."""
    events: tuple[str, ...] = ()
    """If prepare.events names events: the events of all rows."""


def clean(raw: pa.Table, prepare: Prepare, layout: Layout) -> Cleaned:
    """Judge every row of ``raw`` (see :func:`.reading.read_range`).

    Null is an absent or empty value, or one of NULL, null, NaN, nan, \\N. A null rating is no
    rating, not a bad one.
    """
    verdict = _Verdict(len(raw))
    found: dict[str, pa.ChunkedArray | pa.Array] = {}
    for side in (c.USER, c.ITEM):
        whole = pa.types.is_integer(layout.id_types[side])
        found[side] = raw[side].cast(pa.int64()) if whole else as_text(raw[side])
        verdict.reject(f"null_{side}", is_null(found[side]))
    if c.TIMESTAMP in raw.column_names:
        time, bad = microseconds(raw[c.TIMESTAMP], layout.time_unit)
        verdict.reject("bad_timestamp", bad, raw[c.TIMESTAMP])
        if prepare.clean.time_range is not None:
            first, last = prepare.clean.time_range
            limits = first * c.SECOND, last * c.SECOND
            verdict.reject("time_out_of_range", _outside(time, limits), raw[c.TIMESTAMP])
        found[c.TIMESTAMP] = pa.array(time)
    if c.EVENT in raw.column_names:
        events, code = coded(raw[c.EVENT])
        found[c.EVENT] = events.take(pa.array(code))
    if c.RATING in raw.column_names:
        rating, bad = ratings(raw[c.RATING])
        verdict.reject("bad_rating", bad, raw[c.RATING])
        outside = _outside(rating, prepare.clean.rating_range)
        verdict.reject("rating_out_of_range", outside, raw[c.RATING])
        found[c.RATING] = pa.array(rating.astype(np.float32, copy=False))
    seen: tuple[str, ...] = ()
    if prepare.events is not None:
        there = np.bincount(code, minlength=len(events)) > 0
        seen = tuple(events.filter(pa.array(there)).to_pylist())
        other = prepare.events.get(OTHER_EVENTS, 1.0)
        weights = np.array([prepare.events.get(name, other) for name in events.to_pylist()])
        verdict.reject("dropped_event", (weights == 0)[code])
    for name, attribute in kinds_of(prepare.source.columns.context).items():
        found[c.CONTEXT + name] = attribute.context(raw[c.CONTEXT + name])
    if prepare.clean.keep_rejected:
        found[RAW] = _as_read(raw)
    return replace(verdict.divide(pa.table(found)), events=seen)


class _Verdict:
    """The first reason of every row."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.reason: npt.NDArray[np.int8] | None = None  # None: all rows are valid
        self.examples: dict[str, str] = {}

    def reject(self, name: str, bad: Bools | None, values: pa.ChunkedArray | None = None) -> None:
        """Reject the rows that are ``bad``, because of ``values``."""
        if bad is None or not bad.any():
            return
        if self.reason is None:
            self.reason = np.zeros(self.rows, np.int8)
        newly = np.flatnonzero((self.reason == 0) & bad)
        self.reason[newly] = REASONS.index(name) + 1
        if values is not None and len(newly):
            self.examples[name] = str(as_text(values.slice(newly[0], 1))[0].as_py() or "")

    def divide(self, rows: pa.Table) -> Cleaned:
        if self.reason is None:
            return Cleaned(rows, {}, {}, c.REJECTED.empty_table())
        counts = np.bincount(self.reason, minlength=len(REASONS) + 1)[1:]
        rejected = {name: int(n) for name, n in zip(REASONS, counts, strict=True) if n}
        dropped = c.REJECTED.empty_table()
        if RAW in rows.column_names:
            bad = self.reason != 0
            names = pa.array(["", *REASONS]).take(pa.array(self.reason[bad]))
            fields = rows[RAW].filter(pa.array(bad)).combine_chunks().flatten()
            dropped = pa.table([*fields, names], schema=c.REJECTED)
        kept = rows.filter(pa.array(self.reason == 0))
        return Cleaned(kept, rejected, self.examples, dropped)


def _outside(values: Array, limits: tuple[float, float] | None) -> Bools | None:
    """[n] whether a value is below or above the limits; NaN is not."""
    if limits is None:
        return None
    outside: Bools = (values < limits[0]) | (values > limits[1])
    return outside


def _as_read(raw: pa.Table) -> pa.StructArray:
    def text(name: str) -> pa.Array:
        if name not in raw.column_names:
            return pa.nulls(len(raw), pa.string())
        column = as_text(raw[name])
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())

    names = c.REJECTED.names[:-1]
    return pa.StructArray.from_arrays([text(name) for name in names], names)
