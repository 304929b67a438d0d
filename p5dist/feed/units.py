"""Read units: what one Ray task reads, and which step needs each of its rows.

A worker's stream is the sequence of row groups of its lanes, epoch after epoch, cut into units of
about ``unit_rows`` histories. A unit of a large data set is a part of one epoch; a unit of a small
one spans many epochs, so that small data does not pay for scheduling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5dist import columns as c
from p5dist.errors import ShardError
from p5dist.feed.histories import Histories, Ints
from p5dist.feed.order import LaneOrder
from p5dist.feed.randomness import uniform
from p5dist.manifest import Manifest
from p5dist.storage import Folder

_WINDOWS = 3  # which kind of random number a hash belongs to


@dataclass(frozen=True)
class Unit:
    """Row groups, each in the row order of its epoch, one after the other."""

    epoch: Ints
    """[n]"""
    group: Ints
    """[n] index of the row group in the data set"""
    step: Ints
    """[rows] global step that takes each row, row after row"""


def units(
    order: LaneOrder, *, rank: int, world_size: int, start: int, stop: int, unit_rows: int
) -> Iterator[Unit]:
    """Units of worker ``rank`` for the global steps ``start`` … ``stop - 1``.

    Rows of steps outside that range may be in the first and the last units.
    """
    epoch, _ = order.locate(start)
    begin = order.steps_before(epoch)
    parts: list[tuple[Ints, Ints, Ints]] = []
    size = 0
    while begin < stop:
        plan = order.plan(epoch)
        last = (plan.start + plan.rows - 1) // order.rows_per_lane + begin
        mine = (plan.lane % world_size == rank) & (plan.rows > 0) & (last >= start)
        mine &= plan.start // order.rows_per_lane + begin < stop
        for i in np.flatnonzero(mine):
            rows = int(plan.rows[i])
            step = (plan.start[i] + np.arange(rows)) // order.rows_per_lane + begin
            parts.append((plan.epoch + np.zeros(1, np.int64), plan.group[i : i + 1], step))
            size += rows
            if size >= unit_rows:
                yield _unit(parts)
                parts, size = [], 0
        begin += plan.steps
        epoch += 1
    if parts:
        yield _unit(parts)


def _unit(parts: list[tuple[Ints, Ints, Ints]]) -> Unit:
    epoch, group, step = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Unit(epoch, group, step)


@dataclass(frozen=True)
class UnitReader:
    """Reads the training histories of a unit from the shards; runs in Ray tasks.

    Args:
        prepare: the prepare folder.
        manifest: of it.
        order: of the stage.
        columns: columns of the histories beside user, item and split.
        max_length: interactions kept of a longer history.
        random_window: keep a random window that is different in every epoch, not the last one.
        shuffled: order the interactions of a history at random, another way in every epoch.
    """

    prepare: Folder
    manifest: Manifest
    order: LaneOrder
    columns: tuple[str, ...]
    max_length: int
    random_window: bool
    shuffled: bool = False

    def read(self, unit: Unit) -> Histories:
        """Histories of the unit in its row order, training interactions only."""
        distinct, where = np.unique(unit.group, return_inverse=True)
        everything = Histories.concat([self._read_group(int(g)) for g in distinct])
        starts = np.cumsum(self.order.group_rows[distinct]) - self.order.group_rows[distinct]
        index, epochs = [], []
        for epoch, group, begin in zip(unit.epoch, unit.group, starts[where], strict=True):
            rows = self.order.rows_of_group(int(epoch), int(group))
            index.append(begin + rows)
            epochs.append(np.full(len(rows), epoch))
        histories = everything.take(np.concatenate(index))
        epoch_of = np.concatenate(epochs)
        if self.shuffled:
            histories = histories.shuffled(self.order.seed, epoch_of)
        return self._window(histories, epoch_of)

    def _window(self, histories: Histories, epoch: Ints) -> Histories:
        spare = np.maximum(histories.lengths - self.max_length, 0)
        if self.random_window:
            drawn = uniform(self.order.seed, _WINDOWS, epoch, histories.row)
            spare = (drawn * (spare + 1)).astype(np.int64)
        return histories.window(spare, self.max_length)

    def _read_group(self, group: int) -> Histories:
        shard = self.manifest.shards[int(self.order.group_shard[group])]
        number = int(self.order.group_in_shard[group])
        place = self.prepare / shard.path
        try:
            with pq.ParquetFile(place.path, filesystem=place.fs) as file:
                table = file.read_row_group(
                    number, columns=[c.USER, c.ITEM, c.SPLIT, *self.columns], use_threads=False
                )
        except (OSError, pa.ArrowException) as e:
            raise ShardError(
                "a shard cannot be read",
                where=f"{place}, row group {number}",
                value=str(e),
                fix="restore the file, or run the prepare stage again with --fresh",
            ) from e
        first = int(self.order.group_first_row[group])
        histories = Histories.from_table(table, first + np.arange(len(table)))
        return histories.where(histories.split == c.TRAIN)
