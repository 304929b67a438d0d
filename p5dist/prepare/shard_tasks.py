"""The tasks from the sorted interactions of a shard to its file: rounds of the k-core, histograms
of time, counts over its histories, the file itself. The tasks before: :mod:`.log_tasks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from p5dist.config.splits import LeaveOneOut
from p5dist.data import columns as c
from p5dist.data.jagged import Array, Bools, Ints
from p5dist.data.manifest import ShardFile
from p5dist.prepare.arrays import Codes, Ids
from p5dist.prepare.cleaning import USER_REASONS
from p5dist.prepare.histories import ShardHistories, build, over_length, train_counts
from p5dist.prepare.interactions import TRAINED, Interactions, Names, rejected, users_of_items
from p5dist.prepare.log_tasks import Stage, by_reason
from p5dist.prepare.profile import ShardProfile, profile_shard
from p5dist.prepare.scratch import Scratch
from p5dist.prepare.share_cuts import Bins
from p5dist.prepare.split import AFTER_TEST, Cuts
from p5dist.prepare.vocabulary import Vocabulary, catalogue_indices
from p5dist.prepare.write_shards import history_table, write_shard

RARE_ITEM, FEW_USERS, _RARE_USER, _OVER_LENGTH, _AFTER_TEST, _UNKNOWN = (
    1 + USER_REASONS.index(name)
    for name in (
        "rare_item", "few_users", "rare_user", "over_length", "after_test", "unknown_item",
    )
)  # fmt: skip

ItemCounts: TypeAlias = tuple[Codes, Codes]
"""Places of distinct items in the catalogue, and a count of each. A shard has a small part of a
large catalogue, so that arrays as long as the catalogue would be most of the traffic."""


@dataclass(frozen=True)
class Left:
    """Results of earlier passes that decide which interactions remain and how they are split."""

    rounds: int
    """Rounds that the k-core took."""
    cuts: Cuts | None
    """The cuts of a time split."""


@dataclass(frozen=True)
class Counted:
    """Result of a count task."""

    histories: int
    users: int
    train: ItemCounts
    seen: ItemCounts
    """``train``: training interactions by item; ``seen``: all interactions by item."""
    coded: dict[str, tuple[pa.StringArray, Ints, Ints]]
    """By event and context: values, training interactions, interactions."""
    held_out: int
    """Interactions of validation and test."""


def drop_rare(
    stage: Stage, shard: int, core_round: int, catalogue: Ids, drop: Array
) -> tuple[ItemCounts, ItemCounts, dict[str, int]]:
    """One round of the k-core: drop the interactions of some items, then the interactions of users
    with too few remaining ones.

    Returns by item the number of dropped interactions, and of users who no longer have the item
    (with ``privacy.min_item_users``); and, for the shard, dropped interactions by reason.

    Args:
        core_round: from 1; reads the files of earlier rounds, so that a round can be run again.
        drop: [catalogue] RARE_ITEM or FEW_USERS for items that are dropped, else 0.
    """
    scratch = stage.shard(shard)
    index = _catalogue_index(scratch, catalogue)
    drop_here = drop[index]
    nothing = np.zeros(0, np.int32), np.zeros(0, np.int32)
    if core_round > 1 and not drop_here.any():
        return nothing, nothing, {}
    read = [c.USER, c.ITEM, *([] if stage.earlier is None else [TRAINED])]
    rows = scratch.read_table("rows.arrow", read)
    user, item = rows[c.USER].to_numpy(), rows[c.ITEM].to_numpy()
    before, written = _reasons(scratch, core_round - 1, len(user))
    reason = before.copy()
    reason[before == 0] = drop_here[item[before == 0]]
    users = int(user[-1]) + 1 if len(user) else 0
    gone = user[np.flatnonzero(reason)]
    left = np.bincount(user, minlength=users) - np.bincount(gone, minlength=users)
    few = left < stage.prepare.clean.min_user_interactions
    if TRAINED in rows.column_names:
        few[user[rows[TRAINED].to_numpy()]] = False
    if few.any():
        reason[(reason == 0) & few[user]] = _RARE_USER
    scratch.write_array(f"reason-{core_round}.npy", reason)
    for old in range(1, written):
        (scratch.folder / f"reason-{old}.npy").remove()
    now = np.flatnonzero(reason != before)
    counts = np.bincount(item[now], minlength=len(index))
    users_gone = nothing
    if stage.prepare.privacy.min_item_users > 1:
        had, has = (
            users_of_items(user[kept], item[kept], len(index))
            for kept in (before == 0, reason == 0)
        )
        users_gone = _item_counts(had - has, index)
    return _item_counts(counts, index), users_gone, by_reason(reason[now])


def times(stage: Stage, shard: int, rounds: int, bins: list[Bins]) -> list[Ints]:
    """Interactions in every one of ``bins``, see :class:`.share_cuts.ShareCut`."""
    rows, _ = _rows(stage, shard, rounds)
    too_old = over_length(rows, stage.prepare)
    if too_old is not None:
        rows = rows.take(~too_old)
    return [some.counts(rows.time) for some in bins]


def count(stage: Stage, shard: int, left: Left, catalogue: Ids, known: Bools | None) -> Counted:
    """Counts over the histories of a shard.

    Args:
        known: [catalogue] items that have an id; None before ids are assigned.
    """
    scratch = stage.shard(shard)
    histories, index, _, _ = _histories(stage, shard, left, catalogue, known)
    train = histories.split == c.TRAIN
    if histories.rows.trained is not None:  # counted by the earlier runs
        train &= ~histories.rows.trained

    def counted(code: Any, size: int) -> tuple[Ints, Ints]:
        return np.bincount(code[train], minlength=size), np.bincount(code, minlength=size)

    of_shard = counted(histories.rows.item, len(index))
    coded = {}
    for name, codes in histories.rows.coded.items():
        values = scratch.read_column(f"{name}.arrow")
        coded[name] = (values, *counted(codes, len(values)))
    return Counted(
        histories=len(histories.lengths),
        users=len(np.unique(histories.user)),
        train=_item_counts(of_shard[0], index),
        seen=_item_counts(of_shard[1], index),
        coded=coded,
        held_out=int((histories.split != c.TRAIN).sum()),
    )


@dataclass(frozen=True)
class Written:
    """Result of a write task."""

    file: ShardFile | None
    """None where no history is left."""
    profile: ShardProfile | None
    users: pa.Table
    """Its part of the user vocabulary."""
    rejected: dict[str, int]
    """Those that the k-core had left."""
    unknown: Ints
    """[3] rejected interactions of unknown items by split code"""


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
    histories, index, reason, unknown = _histories(stage, shard, left, catalogue, ids > 0)
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
        return Written(None, None, users, rejected_here, unknown)
    values = {name: coded[name].ids(names.coded[name]) for name in histories.rows.coded}
    table = history_table(histories, user_ids[user], ids[index], values)
    path = f"shards/part-{shard:05d}.parquet"
    file = write_shard(table, stage.folder, path, first[0], group_rows)
    profile = profile_shard(histories, names, index)
    return Written(file, profile, users, rejected_here, unknown)


def _rows(stage: Stage, shard: int, rounds: int) -> tuple[Interactions, Array]:
    """A shard's interactions after the k-core, and why each of the grouped ones was dropped."""
    rows = Interactions.from_table(stage.shard(shard).read_table("rows.arrow"))
    reason, found = _reasons(stage.shard(shard), rounds, len(rows))
    return (rows.take(reason == 0) if found else rows), reason


def _histories(
    stage: Stage, shard: int, left: Left, catalogue: Ids, known: Bools | None
) -> tuple[ShardHistories, Codes, Array, Ints]:
    """Histories of a shard, index of its items in the catalogue, reason of every interaction, and
    [3] interactions of unknown items by split code."""
    rows, reason = _rows(stage, shard, left.rounds)
    index = _catalogue_index(stage.shard(shard), catalogue)
    too_old = over_length(rows, stage.prepare)
    if too_old is not None:
        reason[np.flatnonzero(reason == 0)[too_old]] = _OVER_LENGTH
        rows = rows.take(~too_old)
    histories = build(rows, stage.prepare, left.cuts, _held_out(stage, shard, rows))
    if (after := histories.split == AFTER_TEST).any():
        reason[np.flatnonzero(reason == 0)[after]] = _AFTER_TEST
        histories = histories.where(~after)
    unknown = np.zeros(3, np.int64)
    if known is not None and not (keep := known[index][histories.rows.item]).all():
        reason[np.flatnonzero(reason == 0)[~keep]] = _UNKNOWN
        unknown += np.bincount(histories.split[~keep], minlength=3)
        histories = histories.where(keep)
    return histories, index, reason, unknown


def _held_out(stage: Stage, shard: int, rows: Interactions) -> Bools | None:
    """[T] the interactions with one of the events that the split holds out; None without such."""
    split = stage.prepare.split
    if not isinstance(split, LeaveOneOut) or split.events is None:
        return None
    names = stage.shard(shard).read_column(f"{c.EVENT}.arrow").to_pylist()
    chosen = np.array([name in split.events for name in names], dtype=bool)
    return chosen[rows.coded[c.EVENT]]


def _reasons(scratch: Scratch, rounds: int, rows: int) -> tuple[Array, int]:
    """[rows] the reason for which each grouped interaction of a shard is dropped in the first
    ``rounds`` rounds of the k-core (0: kept); and the last round that dropped any, since a round
    without drops writes nothing."""
    while rounds and not scratch.has(f"reason-{rounds}.npy"):
        rounds -= 1
    return scratch.read_array(f"reason-{rounds}.npy") if rounds else np.zeros(rows, np.int8), rounds


def _catalogue_index(scratch: Scratch, catalogue: Ids) -> Codes:
    """The index in the catalogue of every item of a shard."""
    if not scratch.has("items_to_catalogue.npy"):
        scratch.write_array(
            "items_to_catalogue.npy",
            catalogue_indices(scratch.read_column("items.arrow"), catalogue),
        )
    return scratch.read_array("items_to_catalogue.npy")


def _item_counts(counts: Ints, index: Codes) -> ItemCounts:
    """The non-zero ``counts`` of a shard's items, at ``index`` of the catalogue."""
    there = np.flatnonzero(counts)
    return index[there], counts[there].astype(np.int32)
