"""The tasks up to the k-core: functions of a read unit or a shard, whoever runs them.

Whatever they write has a name of its own, so that a task that is run again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.prepare import GivenSplit, Prepare
from p5dist.data import columns as c
from p5dist.data.jagged import Array, Bools, Ints
from p5dist.prepare.arrays import Codes, Ids, hash_ids
from p5dist.prepare.cleaning import USER_REASONS, clean
from p5dist.prepare.interactions import PART, ROW, judge, rejected, sort
from p5dist.prepare.layout import Layout, Unit
from p5dist.prepare.reading import read_unit
from p5dist.prepare.scratch import Scratch
from p5dist.prepare.vocabulary import merge_counted, places
from p5dist.storage import Folder

_RARE_ITEM, _RARE_USER = (1 + USER_REASONS.index(name) for name in ("rare_item", "rare_user"))

ItemCounts: TypeAlias = tuple[Codes, Codes]
"""Places of distinct items in the catalogue, and a count of each. A shard has a small part of a
large catalogue, so that arrays as long as the catalogue would be most of the traffic."""


@dataclass(frozen=True)
class Stage:
    """What all tasks share."""

    prepare: Prepare
    seed: int
    shards: int
    layout: Layout
    folder: Folder
    """prepare/ of the run"""
    compressed: bool = False
    """Whether scratch files are"""

    @property
    def scratch(self) -> Scratch:
        return Scratch(self.folder / "scratch", self.compressed)

    def shard(self, number: int) -> Scratch:
        """The scratch of a shard."""
        return self.scratch / f"shard-{number:05d}"

    def write_rejected(self, name: str, rows: pa.Table) -> None:
        if len(rows):
            (self.folder / f"rejected/{name}.parquet").write_table(rows)


@dataclass(frozen=True)
class UnitCounts:
    """What a read task tells the driver."""

    rows: int
    kept: int
    rejected: dict[str, int]
    times: tuple[int, int] | None
    """First and last time of the rows that are kept."""


@dataclass(frozen=True)
class ShardCounts:
    """What a group task tells the driver."""

    rows: int
    """Interactions left."""
    rejected: dict[str, int]
    backwards: tuple[int, int]
    """Of a sample of users, see :func:`.interactions.sort`."""


def read(stage: Stage, unit: Unit, number: int) -> UnitCounts:
    """Clean a unit and divide its valid rows among the shards: file ``read/unit-<number>`` has, for
    every table that the unit is read in, one record batch a shard."""
    scratch, done = stage.scratch, f"read/unit-{number:05d}.json"
    if scratch.has(done):
        return UnitCounts(**scratch.read_json(done))
    rows, kept, low, high = 0, 0, [], []
    counts: dict[str, int] = {}

    def pieces() -> Iterator[pa.Table]:
        nonlocal rows, kept
        for i, (raw, malformed) in enumerate(read_unit(unit, stage.layout)):
            cleaned = clean(raw, stage.prepare, stage.layout)
            stage.write_rejected(f"unit-{number:05d}-{i:03d}", cleaned.rejected_rows)
            for name, n in [*cleaned.rejected.items(), ("malformed", malformed)]:
                if n:
                    counts[name] = counts.get(name, 0) + n
            valid = cleaned.rows
            if c.TIMESTAMP in valid.column_names and len(valid):
                span = pc.min_max(valid[c.TIMESTAMP]).as_py()
                low.append(span["min"])
                high.append(span["max"])
            elif c.TIMESTAMP not in valid.column_names:
                valid = valid.append_column(ROW, pa.array(np.arange(kept, kept + len(valid))))
            rows, kept = rows + len(raw) + malformed, kept + len(valid)
            yield from _divide(valid, stage.shards)

    parts = pieces()
    first = next(parts)
    scratch.write_batches(f"read/unit-{number:05d}.arrow", first.schema, _chain(first, parts))
    found = UnitCounts(rows, kept, counts, (min(low), max(high)) if low else None)
    scratch.write_json(done, asdict(found))
    return found


def group(stage: Stage, shard: int, units: list[tuple[int, int]]) -> ShardCounts:
    """Sort a shard's interactions and drop duplicates, repeats and bots; count its items.

    Args:
        units: of every read unit the split code of its files (of a given split), and the valid
            rows before it.
    """
    scratch, done = stage.shard(shard), "group.json"
    if scratch.has(done):
        return ShardCounts(**scratch.read_json(done))
    rows, names, backwards = sort(_gather(stage, shard, units), stage.prepare, stage.seed)
    reason = judge(rows, stage.prepare.clean)
    stage.write_rejected(f"shard-{shard:05d}-0", rejected(rows, reason))
    if reason.any():
        rows = rows.take(reason == 0)
    scratch.write_table("rows.arrow", rows.to_table())
    scratch.write_table("users.arrow", pa.table({c.USER: names.users}))
    count = np.bincount(rows.item, minlength=len(names.items))
    scratch.write_table("items.arrow", pa.table({c.ITEM: names.items, c.COUNT: count}))
    for name, values in names.coded.items():
        scratch.write_table(f"{name}.arrow", pa.table({name: values}))
    found = ShardCounts(len(rows), by_reason(reason), backwards)
    scratch.write_json(done, asdict(found))
    return found


def merge_items(stage: Stage, parts: Sequence[str], merged: str) -> None:
    """Merge files of items and their counts into one, in id order."""
    tables = [stage.scratch.read_table(part) for part in parts]
    stage.scratch.write_table(merged, merge_counted(tables))


def drop_rare(
    stage: Stage, shard: int, turn: int, catalogue: Ids, rare: Bools
) -> tuple[ItemCounts, dict[str, int]]:
    """One turn of the k-core: drop interactions of rare items, then of users who have too few left;
    interactions that this takes from items, and from the shard by reason.

    Args:
        turn: from 1; reads what earlier ones left, so that a turn can be run again.
        rare: [catalogue] items that are rare.
    """
    scratch = stage.shard(shard)
    place = item_places(scratch, catalogue)
    rare_here = rare[place]
    if turn > 1 and not rare_here.any():
        return (np.zeros(0, np.int32), np.zeros(0, np.int32)), {}
    rows = scratch.read_table("rows.arrow", [c.USER, c.ITEM])
    user, item = rows[c.USER].to_numpy(), rows[c.ITEM].to_numpy()
    before, written = reasons(scratch, turn - 1, len(user))
    reason = before.copy()
    reason[(before == 0) & rare_here[item]] = _RARE_ITEM
    users = int(user[-1]) + 1 if len(user) else 0
    gone = user[np.flatnonzero(reason)]
    left = np.bincount(user, minlength=users) - np.bincount(gone, minlength=users)
    few = left < stage.prepare.clean.min_user_interactions
    if few.any():
        reason[(reason == 0) & few[user]] = _RARE_USER
    scratch.write_array(f"reason-{turn}.npy", reason)
    for old in range(1, written):
        (scratch.folder / f"reason-{old}.npy").remove()
    now = np.flatnonzero(reason != before)
    counts = np.bincount(item[now], minlength=len(place))
    return item_counts(counts, place), by_reason(reason[now])


def item_places(scratch: Scratch, catalogue: Ids) -> Codes:
    """Where a shard's items are in the catalogue."""
    if not scratch.has("place.npy"):
        scratch.write_array("place.npy", places(scratch.read_column("items.arrow"), catalogue))
    return scratch.read_array("place.npy")


def reasons(scratch: Scratch, turn: int, rows: int) -> tuple[Array, int]:
    """[rows] why each of a shard's grouped interactions is dropped after a turn of the k-core (0:
    it is not), and the turn that found it so; turns that drop nothing write nothing."""
    while turn and not scratch.has(f"reason-{turn}.npy"):
        turn -= 1
    return scratch.read_array(f"reason-{turn}.npy") if turn else np.zeros(rows, np.int8), turn


def _divide(rows: pa.Table, shards: int) -> Iterator[pa.Table]:
    user = rows[c.USER].combine_chunks()
    if isinstance(user, pa.ChunkedArray):
        user = user.chunk(0) if user.num_chunks else pa.array([], user.type)
    shard = (hash_ids(user) % np.uint64(shards)).astype(np.min_scalar_type(shards))
    order = np.argsort(shard, kind="stable")  # 8 or 16 bits are sorted by radix
    edges = np.searchsorted(shard[order], np.arange(shards + 1))
    rows = rows.take(pa.array(order))
    for begin, end in pairwise(edges):
        yield rows.slice(begin, end - begin)


def _chain(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def _gather(stage: Stage, shard: int, units: list[tuple[int, int]]) -> pa.Table:
    """A shard's cleaned rows in the order of the log."""
    tables = []
    for number, (part, first) in enumerate(units):
        with stage.scratch.open(f"read/unit-{number:05d}.arrow") as reader:
            batches = [
                reader.get_batch(i) for i in range(shard, reader.num_record_batches, stage.shards)
            ]
        table = pa.Table.from_batches(batches)
        if ROW in table.column_names:
            row = pc.add(table[ROW], pa.scalar(first, pa.int64()))
            table = table.set_column(table.column_names.index(ROW), ROW, row)
        if isinstance(stage.prepare.split, GivenSplit):
            table = table.append_column(PART, pa.repeat(pa.scalar(part, pa.int8()), len(table)))
        tables.append(table)
    return pa.concat_tables(tables)


def item_counts(counts: Ints, place: Codes) -> ItemCounts:
    """What a shard found: ``counts`` of its items, of which ``place`` is in the catalogue."""
    there = np.flatnonzero(counts)
    return place[there], counts[there].astype(np.int32)


def by_reason(reason: Array) -> dict[str, int]:
    """Number of interactions by name of the reason; 0 is none."""
    counts = np.bincount(reason, minlength=len(USER_REASONS) + 1)[1:]
    return {name: int(n) for name, n in zip(USER_REASONS, counts, strict=True) if n}
