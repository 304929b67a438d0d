"""The tasks after the k-core: what is left becomes histories, is counted, and is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist.data import columns as c
from p5dist.data.jagged import Array, Bools, Ints
from p5dist.data.manifest import ShardFile
from p5dist.prepare.arrays import Codes, Ids
from p5dist.prepare.cleaning import USER_REASONS
from p5dist.prepare.histories import ShardHistories, build, over_length, train_counts
from p5dist.prepare.interactions import Interactions, Names, rejected
from p5dist.prepare.profile import ShardProfile, profile_shard
from p5dist.prepare.shards import history_table, write_shard
from p5dist.prepare.split import Cuts
from p5dist.prepare.tasks import ItemCounts, Stage, by_reason, item_counts, item_places, reasons
from p5dist.prepare.vocabulary import Vocabulary

_OVER_LENGTH, _UNKNOWN = (1 + USER_REASONS.index(name) for name in ("over_length", "unknown_item"))


@dataclass(frozen=True)
class Left:
    """What the k-core has left, for all tasks of this module."""

    turn: int
    """Its last turn"""
    cuts: Cuts | None
    """Of a time split"""


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


def times(stage: Stage, shard: int, turn: int, low: int, width: int, bins: int) -> Ints:
    """[bins] interactions by time, see :meth:`.split.Cuts.at_shares`."""
    rows, _ = _rows(stage, shard, turn)
    too_old = over_length(rows, stage.prepare)
    if too_old is not None:
        rows = rows.take(~too_old)
    return np.bincount((rows.time - low) // width, minlength=bins).astype(np.int64)


def count(stage: Stage, shard: int, left: Left, catalogue: Ids, known: Bools | None) -> Counted:
    """What is in a shard's histories.

    Args:
        known: [catalogue] items that have an id; None before that is known.
    """
    scratch = stage.shard(shard)
    histories, place, _ = _histories(stage, shard, left, catalogue, known)
    train = histories.split == c.TRAIN

    def counted(code: Any, size: int) -> tuple[Ints, Ints]:
        return np.bincount(code[train], minlength=size), np.bincount(code, minlength=size)

    of_shard = counted(histories.rows.item, len(place))
    coded = {}
    for name, codes in histories.rows.coded.items():
        values = scratch.read_column(f"{name}.arrow")
        coded[name] = (values, *counted(codes, len(values)))
    return Counted(
        histories=len(histories.lengths),
        users=len(np.unique(histories.user)),
        train=item_counts(of_shard[0], place),
        seen=item_counts(of_shard[1], place),
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
    left: Left,
    catalogue: Ids,
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
    scratch = stage.shard(shard)
    histories, place, reason = _histories(stage, shard, left, catalogue, ids > 0)
    if stage.prepare.clean.keep_rejected:
        everything = Interactions.from_table(scratch.read_table("rows.arrow"))
        stage.write_rejected(f"shard-{shard:05d}-1", rejected(everything, reason))
    names = Names(
        scratch.read_column("users.arrow"),
        scratch.read_column("items.arrow"),
        {name: scratch.read_column(f"{name}.arrow") for name in histories.rows.coded},
    )
    there, user = np.unique(histories.user, return_inverse=True)
    counts = train_counts(histories, len(names.users))[there]
    user_ids = first[1] + 1 + np.arange(len(there))
    external = names.users.take(pa.array(there)).cast(pa.string())
    users = pa.table([user_ids, external, counts], schema=c.VOCABULARY)
    rejected_here = by_reason(reason[reason >= _OVER_LENGTH])
    if not len(histories.lengths):
        return Written(None, None, users, rejected_here)
    values = {name: coded[name].ids(names.coded[name]) for name in histories.rows.coded}
    table = history_table(histories, user_ids[user], ids[place], values)
    path = f"shards/part-{shard:05d}.parquet"
    file = write_shard(table, stage.folder, path, first[0], group_rows)
    return Written(file, profile_shard(histories, names, place), users, rejected_here)


def _rows(stage: Stage, shard: int, turn: int) -> tuple[Interactions, Array]:
    """A shard's interactions after the k-core, and why each of the grouped ones was dropped."""
    rows = Interactions.from_table(stage.shard(shard).read_table("rows.arrow"))
    reason, found = reasons(stage.shard(shard), turn, len(rows))
    return (rows.take(reason == 0) if found else rows), reason


def _histories(
    stage: Stage, shard: int, left: Left, catalogue: Ids, known: Bools | None
) -> tuple[ShardHistories, Codes, Array]:
    """Histories of a shard, places of its items in the catalogue, reason of every interaction."""
    rows, reason = _rows(stage, shard, left.turn)
    place = item_places(stage.shard(shard), catalogue)
    too_old = over_length(rows, stage.prepare)
    if too_old is not None:
        reason[np.flatnonzero(reason == 0)[too_old]] = _OVER_LENGTH
        rows = rows.take(~too_old)
    histories = build(rows, stage.prepare, left.cuts)
    if known is not None and not (keep := known[place][rows.item]).all():
        reason[np.flatnonzero(reason == 0)[~keep]] = _UNKNOWN
        histories = histories.where(keep)
    return histories, place, reason
