"""People leave prepared data: their rows of the shards become empty and stay where they are.

All files that change are written beside the old ones. The manifest that names them (``pending``)
is the one write that decides; afterwards the new files replace the old ones, which a second call
finishes if the first one is killed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, contains, offsets_of
from p5dist.data.manifest import NEW, Manifest, ShardFile, Targets
from p5dist.forgetting.described import (
    Edits,
    edit_rejected,
    edit_tables_about_users,
    edit_vocabularies,
    without_mentions,
)
from p5dist.forgetting.people import People
from p5dist.prepare.arrays import one_array
from p5dist.prepare.write_shards import write_shard
from p5dist.storage import Folder

REASON = "forgotten"
"""In ``rows_rejected``."""


@dataclass
class Removed:
    """What the shards had of people."""

    rows: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Numbers of their histories that have training interactions."""
    interactions: int = 0
    by_split: Ints = field(default_factory=lambda: np.zeros(3, np.int64))
    users_by_split: Ints = field(default_factory=lambda: np.zeros(3, np.int64))
    items: Counter[int] = field(default_factory=Counter)
    """Training interactions by item."""
    targets: int = 0
    rated: int = 0
    by_event: Counter[int] = field(default_factory=Counter)
    """Targets by code of the event."""
    context: dict[str, set[int]] = field(default_factory=dict)
    """Value ids by context column."""

    def add(self, histories: Histories, since: int | None) -> None:
        """Count the histories of whole users."""
        self.interactions += len(histories.item)
        self.by_split += np.bincount(histories.split, minlength=3)
        owner = histories.user[histories.owner()]
        for code in range(3):
            self.users_by_split[code] += len(np.unique(owner[histories.split == code]))
        train = histories.where(histories.split == c.TRAIN)
        self.rows = np.append(self.rows, train.row[train.lengths > 0])
        new = train.timestamp >= (since if since is not None else np.iinfo(np.int64).min)
        target = new & (train.position() > 0)
        self.items.update(train.item[new].tolist())
        self.targets += int(target.sum())
        self.rated += int((target & ~np.isnan(train.rating)).sum())
        self.by_event.update(train.event[target].tolist())


def removed_from(prepare: Folder, manifest: Manifest, people: People) -> Removed:
    """What the shards have of people; nothing changes."""
    found = Removed()
    for shard in manifest.shards:
        table = _rows_of(prepare, shard, people)
        if table is not None:
            _count(found, table, shard, manifest, people)
    return found


def forget_in_prepared(prepare: Folder, manifest: Manifest, people: People, found: Removed) -> None:
    """Remove people from all files of a prepare folder.

    Args:
        manifest: without pending files.
        found: what the shards have of the people, see :func:`removed_from`.
    """
    edits, shards = Edits(prepare), list[ShardFile]()
    for shard in manifest.shards:
        table = _rows_of(prepare, shard, people)
        if table is None:
            shards.append(shard)
            continue
        new = write_shard(
            _emptied(table, people), prepare, shard.path + NEW, shard.first_row, shard.groups[0]
        )
        assert new.groups == shard.groups, "rows stay in their row groups"
        edits.names.append(shard.path)
        shards.append(new.model_copy(update={"path": shard.path}))
    if len(people.ids):
        edit_vocabularies(edits, manifest, people, found.items, found.context)
        edit_tables_about_users(edits, manifest, people)
        _profile(edits, found, people)
    edit_rejected(edits, people)
    after = _manifest(manifest, shards, found, people)
    after.model_copy(update={"pending": tuple(edits.names)}).save(prepare)
    finish(prepare)


def finish(prepare: Folder) -> None:
    """Let new files replace the old ones; does nothing if none is pending."""
    manifest = Manifest.read(prepare, unfinished=True)
    if not manifest.pending:
        return
    for name in manifest.pending:
        new, old = prepare / (name + NEW), prepare / name
        if new.exists():
            new.fs.move(new.path, old.path)
    (prepare / "fitted").remove()  # counts; they are made again when they are needed
    manifest.model_copy(update={"pending": ()}).save(prepare)


def _rows_of(prepare: Folder, shard: ShardFile, people: People) -> pa.Table | None:
    """A shard that has one of the people; None if it has none."""
    file = prepare / shard.path
    users = file.read_table([c.USER])[c.USER].to_numpy()
    return file.read_table() if contains(people.ids, users).any() else None


def _count(
    found: Removed, table: pa.Table, shard: ShardFile, manifest: Manifest, people: People
) -> None:
    theirs = np.flatnonzero(contains(people.ids, table[c.USER].to_numpy()))
    rows = table.take(pa.array(theirs))
    found.add(Histories.from_table(rows, shard.first_row + theirs), manifest.since)
    for name in manifest.context:
        values = one_array(rows[name]).flatten().to_pylist()
        found.context.setdefault(name, set()).update(values)


def _emptied(table: pa.Table, people: People) -> pa.Table:
    """The rows of a shard, those of the people without interactions."""
    theirs = contains(people.ids, table[c.USER].to_numpy())
    columns: list[Any] = []
    for name in table.column_names:
        column = one_array(table[name])
        if name == c.CONTINUES:
            column = pc.and_(column, pa.array(~theirs))
        elif pa.types.is_list(column.type):
            lengths = np.asarray(pc.list_value_length(column)).astype(np.int64)
            kept = np.repeat(~theirs, lengths)
            ends = offsets_of(np.where(theirs, 0, lengths)).astype(np.int32)
            values = column.flatten().filter(pa.array(kept))
            column = pa.ListArray.from_arrays(pa.array(ends), values)
        columns.append(column)
    return pa.table(columns, schema=table.schema)


def _profile(edits: Edits, found: Removed, people: People) -> None:
    profile = (edits.prepare / "profile.json").read_json()
    profile["interactions"] -= found.interactions
    profile["rows_rejected"] = _more(profile["rows_rejected"], found)
    profile["users"] -= len(people.ids)
    edits.new("profile.json").write_json(without_mentions(profile, people))


def _manifest(
    manifest: Manifest, shards: list[ShardFile], found: Removed, people: People
) -> Manifest:
    targets, names = manifest.targets, list(manifest.events)
    if targets is not None:
        by_event = Counter(targets.by_event)
        by_event.subtract({names[code - 1]: n for code, n in found.by_event.items() if code})
        targets = Targets(
            total=targets.total - found.targets, rated=targets.rated - found.rated,
            by_event={event: n for event, n in by_event.items() if n > 0},
        )  # fmt: skip
    return manifest.model_copy(
        update={
            "shards": tuple(shards),
            "rows_kept": manifest.rows_kept - found.interactions,
            "rows_rejected": _more(manifest.rows_rejected, found),
            "rows_by_split": _less(manifest.rows_by_split, found.by_split),
            "users_by_split": _less(manifest.users_by_split, found.users_by_split),
            "forgotten": manifest.forgotten + len(people.ids),
            "emptied": _digest(manifest.emptied, people),
            "targets": targets,
        }
    )


def _digest(before: str, people: People) -> str:
    if not len(people.ids):
        return before
    return hashlib.sha256(before.encode() + people.ids.tobytes()).hexdigest()[:32]


def _more(rejected: dict[str, int], found: Removed) -> dict[str, int]:
    number = rejected.get(REASON, 0) + found.interactions
    return {**rejected, REASON: number} if number else rejected


def _less(by_split: dict[str, int], removed: Ints) -> dict[str, int]:
    return {name: by_split[name] - int(removed[code]) for name, code in c.SPLIT_CODES.items()}
