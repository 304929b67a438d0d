"""All interactions of a shard's users → histories in the order of time.

A shard holds the users with ``stable_hash(external id) % shards`` equal to its number, in the order
of (hash, external id). Users are numbered from 1 in this order, shard after shard, so that user id
= row number + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from p5dist import columns as c
from p5dist.config.prepare import GivenSplit, Prepare
from p5dist.prepare.arrays import (
    Array,
    Bools,
    Codes,
    Hashes,
    Ints,
    encode,
    id_order,
    mix,
    stable_hash,
)
from p5dist.prepare.cleaning import RAW_RATING, RAW_TIMESTAMP, ROW
from p5dist.prepare.split import split_codes

TEST_PART = "test_part"


@dataclass(frozen=True)
class Grouped:
    """The B histories of a shard, T interactions together, items and events still external."""

    users: pa.StringArray
    """[B] external ids."""
    lengths: Ints
    """[B]"""
    items: pa.StringArray
    """Distinct external item ids; some may have no interaction left."""
    events: pa.StringArray
    """Distinct event names."""
    item: Codes
    """[T] index into items."""
    timestamp: Ints
    """[T] seconds"""
    event: Codes
    """[T] index into events."""
    rating: npt.NDArray[np.float32]
    """[T]"""
    split: npt.NDArray[np.int8]
    """[T]"""
    rejected: dict[str, int]
    rejected_rows: pa.Table
    tied_rising: int
    """Interactions at the time of the one before whose item id is larger than that one's."""
    leaked: int
    """(user, item, time) that are both in the log and in the test files."""


@dataclass(frozen=True)
class _Rows:
    """[n] interactions sorted by (user, time), ties in the order of the log."""

    user: Codes
    item: Codes
    time: Ints
    event: Codes
    rating: npt.NDArray[np.float32]
    test: Bools
    source: Ints
    """Index of the row in the gathered table."""

    def take(self, index: Array) -> _Rows:
        return _Rows(**{name: value[index] for name, value in vars(self).items()})

    def tied(self) -> Bools:
        """Whether user and time are those of the row before."""
        same = np.zeros(len(self.user), np.bool_)
        same[1:] = (self.user[1:] == self.user[:-1]) & (self.time[1:] == self.time[:-1])
        return same


def gather(pieces: list[pa.Table], first_rows: list[int], test: list[bool]) -> pa.Table:
    """One table of a shard's rows in the order of the log, rows numbered over the whole log.

    Args:
        pieces: the shard's part of every read unit, in order.
        first_rows: number of each unit's first row.
        test: whether each unit belongs to the test files.
    """
    parts = [
        piece.set_column(
            piece.column_names.index(ROW), ROW, pc.add(piece[ROW], pa.scalar(first, pa.int64()))
        ).append_column(TEST_PART, pa.repeat(is_test, len(piece)))
        for piece, first, is_test in zip(pieces, first_rows, test, strict=True)
    ]
    return pa.concat_tables(parts)


def count_items(table: pa.Table, prepare: Prepare) -> tuple[pa.StringArray, Ints]:
    """Items of a gathered table and how many rows each has once duplicates are gone."""
    rows, _, items, _ = _sorted_rows(table)
    if prepare.clean.duplicates == "drop":
        rows = rows.take(~_duplicates(rows))
    return items, np.bincount(rows.item, minlength=len(items)).astype(np.int64)


def group(
    table: pa.Table, prepare: Prepare, seed: int, rare_items: pa.StringArray | None = None
) -> Grouped:
    """Drop duplicates, then rare items, then users who are rare by then; sort and split.

    Args:
        table: what :func:`gather` gives.
        prepare: the section of the job.
        seed: of ``ties: shuffled``.
        rare_items: items with fewer than min_item_interactions in the whole log.
    """
    rows, users, items, events = _sorted_rows(table)
    reason = np.zeros(len(rows.user), np.int8)
    names = ("duplicate", "rare_item", "rare_user")
    if prepare.clean.duplicates == "drop":
        reason[_duplicates(rows)] = 1
    if rare_items is not None:
        rare = np.asarray(pc.is_in(items, value_set=rare_items))[rows.item]
        reason[(reason == 0) & rare] = 2
    left = np.bincount(rows.user[reason == 0], minlength=len(users))
    reason[(reason == 0) & (left < prepare.clean.min_user_interactions)[rows.user]] = 3
    dropped = rows.take(reason != 0)
    reasons = pa.array(["", *names]).take(pa.array(reason[reason != 0]))
    rows = rows.take(reason == 0)
    leaked = _leaked(rows) if isinstance(prepare.split, GivenSplit) else 0
    rising = _tied_rising(rows, items)
    if prepare.ties == "shuffled":
        key = mix(stable_hash(users)[rows.user] ^ mix(stable_hash(items)[rows.item] ^ _seed(seed)))
        rows = rows.take(np.lexsort((key, rows.time, rows.user)))
    lengths = np.bincount(rows.user, minlength=len(users)).astype(np.int64)
    return Grouped(
        users=users.filter(pa.array(lengths > 0)),
        lengths=lengths[lengths > 0],
        items=items,
        events=events,
        item=rows.item,
        timestamp=rows.time,
        event=rows.event,
        rating=rows.rating,
        split=split_codes(prepare.split, lengths[lengths > 0], rows.test),
        rejected={n: int(k) for i, n in enumerate(names, 1) if (k := (reason == i).sum())},
        rejected_rows=_rejected(table, dropped.source, reasons),
        tied_rising=rising,
        leaked=leaked,
    )


def _sorted_rows(
    table: pa.Table,
) -> tuple[_Rows, pa.StringArray, pa.StringArray, pa.StringArray]:
    users, user = encode(table[c.USER])
    by_hash = np.asarray(
        pc.sort_indices(
            pa.table({"hash": stable_hash(users), "id": users}),
            sort_keys=[("hash", "ascending"), ("id", "ascending")],
        )
    )
    place = np.empty(len(users), np.int32)
    place[by_hash] = np.arange(len(users), dtype=np.int32)
    items, item = encode(table[c.ITEM])
    events, event = pa.array([""], pa.string()), np.zeros(len(table), np.int32)
    if c.EVENT in table.column_names:
        events, event = encode(table[c.EVENT])
    time = table[c.TIMESTAMP if c.TIMESTAMP in table.column_names else ROW].to_numpy()
    rows = _Rows(
        user=place[user],
        item=item,
        time=time,
        event=event,
        rating=table[c.RATING].to_numpy() + np.float32(0),  # -0.0 becomes 0.0
        test=table[TEST_PART].to_numpy(),
        source=np.arange(len(table), dtype=np.int64),
    )
    # A stable sort: rows come in the order of the log, and ties keep it.
    rows = rows.take(np.lexsort((rows.time, rows.user)))
    return rows, users.take(pa.array(by_hash)), items, events


def _duplicates(rows: _Rows) -> Bools:
    """[n] whether an earlier row of the same part repeats in every field."""
    found = np.zeros(len(rows.user), np.bool_)
    index, run = _tied_runs(rows)
    rating = np.where(np.isnan(rows.rating), np.float32(np.nan), rows.rating).view(np.int32)
    keys = [k[index] for k in (rating, rows.event, rows.item, rows.test)] + [run]
    order = np.lexsort(keys)
    repeats = np.ones(max(len(index) - 1, 0), np.bool_)
    for key in keys:
        repeats &= key[order][1:] == key[order][:-1]
    found[index[order][1:][repeats]] = True
    return found


def _leaked(rows: _Rows) -> int:
    """How many (user, item, time) are in both parts of a given split."""
    index, run = _tied_runs(rows)
    item, test = rows.item[index], rows.test[index]
    order = np.lexsort((test, item, run))
    item, test, run = item[order], test[order], run[order]
    same = (item[1:] == item[:-1]) & (run[1:] == run[:-1])
    return int((same & test[1:] & ~test[:-1]).sum())


def _tied_runs(rows: _Rows) -> tuple[Ints, Ints]:
    """Rows that share user and time with another one, and the number of the run each is in."""
    tied = rows.tied()
    index: Ints = np.flatnonzero(tied | np.append(tied[1:], False)[: len(tied)])
    return index, np.cumsum(~tied, dtype=np.int64)[index]


def _tied_rising(rows: _Rows, items: pa.StringArray) -> int:
    place = np.empty(len(items), np.int64)
    place[id_order(items)] = np.arange(len(items))
    rank = place[rows.item]
    return int((rows.tied()[1:] & (rank[1:] > rank[:-1])).sum())


def _rejected(table: pa.Table, source: Ints, reasons: pa.Array) -> pa.Table:
    if RAW_RATING not in table.column_names:
        return c.REJECTED.empty_table()
    rows = table.take(pa.array(source))
    event = rows[c.EVENT] if c.EVENT in rows.column_names else pa.nulls(len(rows), pa.string())
    return pa.table(
        [rows[c.USER], rows[c.ITEM], rows[RAW_TIMESTAMP], event, rows[RAW_RATING], reasons],
        schema=c.REJECTED,
    )


def _seed(seed: int) -> Hashes:
    return mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
