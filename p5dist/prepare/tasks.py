"""What each Ray task of the stage does: functions of a read unit or a shard that know no Ray.

Whatever they write has a name of its own, so that a task that Ray runs again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist import columns as c
from p5dist.config.prepare import Prepare
from p5dist.manifest import ShardFile
from p5dist.prepare.arrays import Ints, stable_hash
from p5dist.prepare.cleaning import clean
from p5dist.prepare.histories import Grouped, count_items, gather, group
from p5dist.prepare.profile import ShardProfile, profile_shard
from p5dist.prepare.reading import Layout, Unit, read_unit
from p5dist.prepare.shards import history_table, train_counts, write_shard
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder


@dataclass(frozen=True)
class UnitCounts:
    """What a read task tells the driver."""

    rows: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class ShardCounts:
    """What a group task tells the driver; item and event counts are (values, training
    interactions, interactions)."""

    users: int
    interactions: int
    items: tuple[pa.StringArray, Ints, Ints]
    events: tuple[pa.StringArray, Ints, Ints]
    rejected: dict[str, int]
    profile: ShardProfile | None


def read(unit: Unit, config: Prepare, rejected: Folder, number: int) -> tuple[Any, ...]:
    """UnitCounts, then the valid rows of each shard; dropped rows go to rejected/ as ``number``."""
    raw, malformed = read_unit(unit, Layout.of_log(config.source))
    cleaned = clean(raw, config)
    if len(cleaned.rejected_rows):
        (rejected / f"part-{number:05d}.parquet").write_table(cleaned.rejected_rows)
    counts = cleaned.rejected | ({"malformed": malformed} if malformed else {})
    rows = cleaned.rows.combine_chunks()
    user = rows[c.USER].chunk(0) if len(rows) else pa.array([], pa.string())
    shard = (stable_hash(user) % np.uint64(config.shards)).astype(np.int64)
    shard = shard.astype(np.min_scalar_type(config.shards))  # 16 bits are sorted by radix
    order = np.argsort(shard, kind="stable")
    edges = np.searchsorted(shard[order], np.arange(config.shards + 1))
    pieces = [rows.take(pa.array(order[a:b])) for a, b in pairwise(edges)]
    return (UnitCounts(len(raw) + malformed, counts), *pieces)


def count(config: Prepare, first_rows: list[int], test: list[bool], *pieces: pa.Table) -> Any:
    """:func:`.histories.count_items` of a shard."""
    return count_items(gather(list(pieces), first_rows, test), config)


def group_shard(
    config: Prepare,
    seed: int,
    rare: pa.StringArray | None,
    rejected: Folder,
    number: int,
    first_rows: list[int],
    test: list[bool],
    *pieces: pa.Table,
) -> tuple[ShardCounts, Grouped]:
    """:func:`.histories.group` of a shard; dropped rows go to rejected/ as ``number``."""
    grouped = group(gather(list(pieces), first_rows, test), config, seed, rare)
    if len(grouped.rejected_rows):
        (rejected / f"part-{number:05d}.parquet").write_table(grouped.rejected_rows)
    train = grouped.split == c.TRAIN

    def counted(names: pa.StringArray, code: Any) -> tuple[pa.StringArray, Ints, Ints]:
        counts = (np.bincount(part, minlength=len(names)) for part in (code[train], code))
        return (names, *(n.astype(np.int64) for n in counts))

    counts = ShardCounts(
        users=len(grouped.users),
        interactions=len(grouped.item),
        items=counted(grouped.items, grouped.item),
        events=counted(grouped.events, grouped.event),
        rejected=grouped.rejected,
        profile=profile_shard(grouped) if len(grouped.users) else None,
    )
    return counts, grouped


def write(
    grouped: Grouped,
    vocabularies: tuple[Vocabulary, Vocabulary],
    prepare: Folder,
    path: str,
    first: int,
    rows: int,
) -> tuple[ShardFile, pa.Table]:
    """Write a shard whose first row is ``first``; the table is its part of the user vocabulary."""
    table = history_table(grouped, *vocabularies, first)
    ids = np.arange(first + 1, first + 1 + len(grouped.users), dtype=np.int64)
    users = pa.table([ids, grouped.users, train_counts(grouped)], schema=c.VOCABULARY)
    return write_shard(table, prepare, path, first, rows), users
