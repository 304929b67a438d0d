"""The tasks from the raw log to shards of sorted interactions: read a range of a file, group the
rows of a shard, merge the items of several shards. The tasks that follow: :mod:`.shard_tasks`.

Tasks are functions of their arguments on any worker. No two tasks write the same file, so that
running a task again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.prepare import Prepare
from p5dist.config.splits import GivenSplit
from p5dist.data import columns as c
from p5dist.data.jagged import Array
from p5dist.prepare.arrays import hash_ids
from p5dist.prepare.cleaning import USER_REASONS, clean
from p5dist.prepare.earlier import Earlier
from p5dist.prepare.interactions import (
    PART,
    ROW,
    TRAINED,
    judge,
    rejected,
    sort,
    users_of_items,
    without_unused_items,
)
from p5dist.prepare.layout import FileRange, Layout
from p5dist.prepare.reading import read_range
from p5dist.prepare.scratch import Scratch
from p5dist.prepare.vocabulary import USERS, merge_counted
from p5dist.storage import Folder

_EVENTS = 1000


@dataclass(frozen=True)
class Stage:
    """Arguments that all tasks have in common."""

    prepare: Prepare
    seed: int
    shards: int
    layout: Layout
    folder: Folder
    """prepare/ of the run"""
    compressed: bool = False
    """Whether scratch files are compressed"""
    earlier: Earlier | None = None
    """The runs that the log continues"""

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
class RangeCounts:
    """Result of a read task."""

    rows: int
    kept: int
    rejected: dict[str, int]
    examples: dict[str, str]
    """By reason, what the first row was rejected for."""
    times: tuple[int, int] | None
    """First and last time of the rows that are kept."""
    events: list[str]
    """Of all rows, if prepare.events names events: at most 1,000 that it does not name."""


@dataclass(frozen=True)
class ShardCounts:
    """Result of a group task."""

    rows: int
    """Interactions left."""
    rejected: dict[str, int]
    backwards: tuple[int, int]
    """Of a sample of users, see :func:`.interactions.sort`."""
    earlier: int = 0
    """Interactions that come from the runs that the log continues."""
    late: int = 0
    """New interactions from before the time since which the earlier runs have not trained."""


def read(stage: Stage, part: FileRange, number: int) -> RangeCounts:
    """Clean a range of a file and divide its valid rows among the shards: file
    ``read/range-<number>`` has one record batch a shard for every table that the range is read in.
    """
    scratch, done = stage.scratch, f"read/range-{number:05d}.json"
    if scratch.has(done):
        return RangeCounts(**scratch.read_json(done))
    rows, kept, low, high = 0, 0, [], []
    counts: dict[str, int] = {}
    examples: dict[str, str] = {}
    events: set[str] = set()

    def pieces() -> Iterator[pa.Table]:
        nonlocal rows, kept
        for i, records in enumerate(read_range(part, stage.layout)):
            raw, malformed = records.rows, records.malformed
            cleaned = clean(raw, stage.prepare, stage.layout)
            stage.write_rejected(f"range-{number:05d}-{i:03d}", cleaned.rejected_rows)
            for name, n in [*cleaned.rejected.items(), ("malformed", malformed)]:
                if n:
                    counts[name] = counts.get(name, 0) + n
            if records.example is not None:
                examples["malformed"] = records.example
            for name, value in cleaned.examples.items():
                examples.setdefault(name, value)
            events.update(cleaned.events)
            valid = cleaned.rows
            if c.TIMESTAMP in valid.column_names and len(valid):
                span = pc.min_max(valid[c.TIMESTAMP]).as_py()
                low.append(span["min"])
                high.append(span["max"])
            elif c.TIMESTAMP not in valid.column_names:
                valid = valid.append_column(ROW, pa.array(np.arange(kept, kept + len(valid))))
            rows, kept = rows + len(raw) + malformed, kept + len(valid)
            yield from _divide(valid, stage.shards)

    tables = pieces()
    first = next(tables)
    scratch.write_batches(f"read/range-{number:05d}.arrow", first.schema, _chain(first, tables))
    named = events & (stage.prepare.events or {}).keys()
    events = named | set(sorted(events - named)[:_EVENTS])
    span = (min(low), max(high)) if low else None
    found = RangeCounts(rows, kept, counts, examples, span, sorted(events))
    scratch.write_json(done, asdict(found))
    return found


def group(
    stage: Stage, shard: int, ranges: list[tuple[int, int]], oldest: int | None = None
) -> ShardCounts:
    """Sort a shard's interactions and drop what is too old, duplicates, repeats and bots; count its
    items.

    Args:
        ranges: of every range that was read the split code of its file (of a given split), and
            the valid rows before it.
        oldest: time before which interactions are too old (microseconds); None: never.
    """
    scratch, done = stage.shard(shard), "group.json"
    if scratch.has(done):
        return ShardCounts(**scratch.read_json(done))
    table, earlier = _gather(stage, shard, ranges), 0
    if stage.earlier is not None:
        table = _with_earlier(stage.earlier, shard, new := table)
        earlier = len(table) - len(new)
    rows, names, backwards = sort(table, stage.prepare, stage.seed)
    reason = judge(rows, stage.prepare.clean, oldest)
    stage.write_rejected(f"shard-{shard:05d}-0", rejected(rows, reason))
    items = names.items
    if reason.any():
        rows = rows.take(reason == 0)
        rows, items = without_unused_items(rows, items)
    late = 0
    if rows.trained is not None and stage.earlier is not None:
        too_late = ~rows.trained & (rows.time < stage.earlier.since)
        late = int(too_late.sum())
        rows = replace(rows, trained=rows.trained | too_late)  # no run predicts them
    scratch.write_table("rows.arrow", rows.to_table())
    scratch.write_table("users.arrow", pa.table({c.USER: names.users}))
    counts = {c.COUNT: np.bincount(rows.item, minlength=len(items))}
    if stage.prepare.privacy.min_item_users > 1:
        counts[USERS] = users_of_items(rows.user, rows.item, len(items))
    scratch.write_table("items.arrow", pa.table({c.ITEM: items, **counts}))
    for name, values in names.coded.items():
        scratch.write_table(f"{name}.arrow", pa.table({name: values}))
    found = ShardCounts(len(rows), by_reason(reason), backwards, earlier, late)
    scratch.write_json(done, asdict(found))
    return found


def merge_items(stage: Stage, parts: Sequence[str], merged: str) -> None:
    """Merge files of items and their counts into one, in id order."""
    tables = [stage.scratch.read_table(part) for part in parts]
    stage.scratch.write_table(merged, merge_counted(tables))


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


def _gather(stage: Stage, shard: int, ranges: list[tuple[int, int]]) -> pa.Table:
    """A shard's cleaned rows in the order of the log."""
    tables = []
    for number, (part, first) in enumerate(ranges):
        with stage.scratch.open(f"read/range-{number:05d}.arrow") as reader:
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


def _with_earlier(earlier: Earlier, shard: int, new: pa.Table) -> pa.Table:
    """The new rows of a shard after the earlier interactions of their users."""
    users = pc.unique(new[c.USER])
    before = list(earlier.rows(shard, users, new.schema))
    not_trained = pa.repeat(pa.scalar(False), len(new))
    return pa.concat_tables([*before, new.append_column(TRAINED, not_trained)])


def by_reason(reason: Array) -> dict[str, int]:
    """Number of interactions by name of the reason; 0 is none."""
    counts = np.bincount(reason, minlength=len(USER_REASONS) + 1)[1:]
    return {name: int(n) for name, n in zip(USER_REASONS, counts, strict=True) if n}
