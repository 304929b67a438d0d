"""What each Ray task of the stage does: functions of a read unit or a shard that know no Ray.

Whatever they write has a name of its own, so that a task that Ray runs again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist import columns as c
from p5dist.config.prepare import GivenSplit, Prepare
from p5dist.manifest import ShardFile
from p5dist.prepare.arrays import Bools, Codes, Ids, Ints, hash_ids
from p5dist.prepare.cleaning import USER_REASONS, clean
from p5dist.prepare.histories import ShardHistories, build, over_length, train_counts
from p5dist.prepare.interactions import (
    ROW,
    TEST_PART,
    Interactions,
    Names,
    backwards,
    judge,
    rejected,
    sort,
)
from p5dist.prepare.profile import ShardProfile, profile_shard
from p5dist.prepare.reading import Layout, Unit, read_unit
from p5dist.prepare.scratch import Scratch
from p5dist.prepare.shards import history_table, write_shard
from p5dist.prepare.split import Cuts
from p5dist.prepare.vocabulary import Vocabulary, places
from p5dist.storage import Folder

_RARE_ITEM, _RARE_USER, _OVER_LENGTH, _UNKNOWN = (
    1 + USER_REASONS.index(name)
    for name in ("rare_item", "rare_user", "over_length", "unknown_item")
)


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

    @property
    def scratch(self) -> Scratch:
        return Scratch(self.folder / "scratch")

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
    """See :func:`.interactions.backwards`."""


@dataclass(frozen=True)
class Counted:
    """What a count task tells the driver."""

    histories: int
    users: int
    train: ItemCounts
    seen: ItemCounts
    """Training interactions of items, and interactions."""
    coded: dict[str, tuple[pa.StringArray, Ints, Ints]]
    """By event and context: values, training interactions, interactions."""


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


def group(stage: Stage, shard: int, units: list[tuple[bool, int]]) -> tuple[ShardCounts, Ids]:
    """Sort a shard's interactions and drop duplicates, repeats and bots; its distinct items.

    Args:
        units: of every read unit whether it is of the test files, and the valid rows before it.
    """
    scratch, done = stage.scratch / f"shard-{shard:05d}", "group.json"
    if scratch.has(done):
        return ShardCounts(**scratch.read_json(done)), scratch.read_table("items.arrow")[c.ITEM]
    cleaned = _gather(stage, shard, units)
    rows, names = sort(cleaned, stage.prepare, stage.seed)
    reason = judge(rows, stage.prepare.clean)
    stage.write_rejected(f"shard-{shard:05d}-0", rejected(rows, reason))
    if reason.any():
        rows = rows.take(reason == 0)
    scratch.write_table("rows.arrow", rows.to_table())
    scratch.write_table("users.arrow", pa.table({c.USER: names.users}))
    scratch.write_table("items.arrow", pa.table({c.ITEM: names.items}))
    for name, values in names.coded.items():
        scratch.write_table(f"{name}.arrow", pa.table({name: values}))
    found = ShardCounts(len(rows), _by_reason(reason), backwards(cleaned))
    scratch.write_json(done, asdict(found))
    return found, names.items


def number(stage: Stage, shard: int, catalogue: Ids) -> ItemCounts:
    """Where a shard's items are in the catalogue, for the passes that follow; interactions of its
    items."""
    scratch = stage.scratch / f"shard-{shard:05d}"
    items = _column(scratch, "items.arrow", c.ITEM)
    place = places(items, catalogue)
    scratch.write_array("place.npy", place)
    item = scratch.read_table("rows.arrow", [c.ITEM])[c.ITEM].to_numpy()
    scratch.write_array("reason-0.npy", np.zeros(len(item), np.int8))
    return _item_counts(np.bincount(item, minlength=len(place)), place)


def drop_rare(
    stage: Stage, shard: int, turn: int, rare: Bools
) -> tuple[ItemCounts, dict[str, int]]:
    """One turn of the k-core: drop interactions of rare items, then of users who have too few left;
    interactions that this takes from items, and from the shard by reason.

    Args:
        turn: from 1; reads what turn - 1 left, so that a turn can be run again.
        rare: [catalogue] items that are rare.
    """
    scratch = stage.scratch / f"shard-{shard:05d}"
    place = scratch.read_array("place.npy")
    rows = scratch.read_table("rows.arrow", [c.USER, c.ITEM])
    user, item = rows[c.USER].to_numpy(), rows[c.ITEM].to_numpy()
    before = scratch.read_array(f"reason-{turn - 1}.npy")
    alive = before == 0
    reason = before.copy()
    reason[alive & rare[place][item]] = _RARE_ITEM
    left = np.bincount(user[reason == 0], minlength=int(user[-1]) + 1 if len(user) else 0)
    few = left < stage.prepare.clean.min_user_interactions
    reason[(reason == 0) & few[user]] = _RARE_USER
    scratch.write_array(f"reason-{turn}.npy", reason)
    if turn > 1:
        (scratch.folder / f"reason-{turn - 2}.npy").remove()
    gone = alive & (reason != 0)
    counts = np.bincount(item[gone], minlength=len(place))
    return _item_counts(counts, place), _by_reason(reason[gone])


def times(stage: Stage, shard: int, turn: int, low: int, width: int, bins: int) -> Ints:
    """[bins] interactions by time, see :meth:`.split.Cuts.at_shares`."""
    rows, _ = _left(stage, shard, turn)
    rows = rows.take(~over_length(rows, stage.prepare))
    return np.bincount((rows.time - low) // width, minlength=bins).astype(np.int64)


def count(stage: Stage, shard: int, turn: int, cuts: Cuts | None, known: Bools | None) -> Counted:
    """What is in a shard's histories.

    Args:
        turn: the last one of the k-core.
        known: [catalogue] items that have an id; None before that is known.
    """
    scratch = stage.scratch / f"shard-{shard:05d}"
    histories, place, _ = _histories(stage, shard, turn, cuts, known)
    train = histories.split == c.TRAIN

    def counted(code: Any, size: int) -> tuple[Ints, Ints]:
        return np.bincount(code[train], minlength=size), np.bincount(code, minlength=size)

    of_shard = counted(histories.rows.item, len(place))
    coded = {}
    for name, codes in histories.rows.coded.items():
        values = _column(scratch, f"{name}.arrow", name)
        coded[name] = (values, *counted(codes, len(values)))
    return Counted(
        histories=len(histories.lengths),
        users=len(np.unique(histories.user)),
        train=_item_counts(of_shard[0], place),
        seen=_item_counts(of_shard[1], place),
        coded=coded,
    )


@dataclass(frozen=True)
class Written:
    """What a write task tells the driver."""

    file: ShardFile | None
    """None where no history is left."""
    profile: ShardProfile | None
    users: pa.Table
    """Its part of the user vocabulary."""
    rejected: dict[str, int]
    """Those that the k-core had left."""


def write(
    stage: Stage,
    shard: int,
    turn: int,
    cuts: Cuts | None,
    ids: Ints,
    coded: dict[str, Vocabulary],
    first: tuple[int, int],
    group_rows: int,
) -> Written:
    """Write a shard.

    Args:
        ids: [catalogue] item ids, 0 where an item has none.
        coded: vocabularies of event and context.
        first: histories and users of the shards before.
        group_rows: histories in a row group.
    """
    scratch = stage.scratch / f"shard-{shard:05d}"
    histories, place, reason = _histories(stage, shard, turn, cuts, ids > 0)
    if stage.prepare.clean.keep_rejected:
        everything = Interactions.from_table(scratch.read_table("rows.arrow"))
        stage.write_rejected(f"shard-{shard:05d}-1", rejected(everything, reason))
    names = Names(
        _column(scratch, "users.arrow", c.USER),
        _column(scratch, "items.arrow", c.ITEM),
        {name: _column(scratch, f"{name}.arrow", name) for name in histories.rows.coded},
    )
    there, user = np.unique(histories.user, return_inverse=True)
    counts = train_counts(histories, len(names.users))[there]
    user_ids = first[1] + 1 + np.arange(len(there))
    external = names.users.take(pa.array(there)).cast(pa.string())
    users = pa.table([user_ids, external, counts], schema=c.VOCABULARY)
    rejected_here = _by_reason(reason[reason >= _OVER_LENGTH])
    if not len(histories.lengths):
        return Written(None, None, users, rejected_here)
    values = {name: coded[name].ids(names.coded[name]) for name in histories.rows.coded}
    table = history_table(histories, user_ids[user], ids[place], values)
    path = f"shards/part-{shard:05d}.parquet"
    file = write_shard(table, stage.folder, path, first[0], group_rows)
    return Written(file, profile_shard(histories, names, place), users, rejected_here)


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


def _gather(stage: Stage, shard: int, units: list[tuple[bool, int]]) -> pa.Table:
    """A shard's cleaned rows in the order of the log."""
    parts = []
    for number, (test, first) in enumerate(units):
        with stage.scratch.open(f"read/unit-{number:05d}.arrow") as reader:
            batches = [
                reader.get_batch(i) for i in range(shard, reader.num_record_batches, stage.shards)
            ]
        table = pa.Table.from_batches(batches)
        if ROW in table.column_names:
            row = pc.add(table[ROW], pa.scalar(first, pa.int64()))
            table = table.set_column(table.column_names.index(ROW), ROW, row)
        if isinstance(stage.prepare.split, GivenSplit):
            table = table.append_column(TEST_PART, pa.repeat(test, len(table)))
        parts.append(table)
    return pa.concat_tables(parts)


def _left(stage: Stage, shard: int, turn: int) -> tuple[Interactions, Any]:
    """A shard's interactions after the k-core, and why each of the grouped ones was dropped."""
    scratch = stage.scratch / f"shard-{shard:05d}"
    reason = scratch.read_array(f"reason-{turn}.npy")
    rows = Interactions.from_table(scratch.read_table("rows.arrow"))
    return (rows.take(reason == 0) if reason.any() else rows), reason


def _histories(
    stage: Stage, shard: int, turn: int, cuts: Cuts | None, known: Bools | None
) -> tuple[ShardHistories, Any, Any]:
    """Histories of a shard, places of its items in the catalogue, reason of every interaction."""
    rows, reason = _left(stage, shard, turn)
    place = (stage.scratch / f"shard-{shard:05d}").read_array("place.npy")
    too_old = over_length(rows, stage.prepare)
    if too_old.any():
        reason[np.flatnonzero(reason == 0)[too_old]] = _OVER_LENGTH
        rows = rows.take(~too_old)
    histories = build(rows, stage.prepare, cuts)
    if known is not None and not (keep := known[place][rows.item]).all():
        reason[np.flatnonzero(reason == 0)[~keep]] = _UNKNOWN
        histories = histories.where(keep)
    return histories, place, reason


def _column(scratch: Scratch, file: str, name: str) -> pa.Array:
    column = scratch.read_table(file)[name]
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _item_counts(counts: Ints, place: Codes) -> ItemCounts:
    there = np.flatnonzero(counts)
    return place[there], counts[there].astype(np.int32)


def _by_reason(reason: Any) -> dict[str, int]:
    counts = np.bincount(reason, minlength=len(USER_REASONS) + 1)[1:]
    return {name: int(n) for name, n in zip(USER_REASONS, counts, strict=True) if n}
