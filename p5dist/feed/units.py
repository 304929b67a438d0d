"""Read units: what one Ray task reads, and which step takes each of its rows.

A worker's stream is the sequence of row groups of its lanes, epoch after epoch, cut into units of
about ``unit_rows`` histories. A unit of a large data set is a part of one epoch; a unit of a small
one spans many epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import Stream, uniform
from p5dist.errors import ShardError
from p5dist.feed.order import LaneOrder
from p5dist.storage import Folder


@dataclass(frozen=True)
class Unit:
    """Row groups, each in the row order of its epoch."""

    epoch: Ints
    """[n]"""
    group: Ints
    """[n] index of the row group in the data set"""
    place: Ints
    """[n] of the group's first row in its lane, counted from the first row of the first epoch as
    if every step had taken a whole batch: step s takes the places s·b … (s+1)·b - 1"""

    def size(self, order: LaneOrder) -> int:
        """Rows."""
        return int(order.group_rows[self.group].sum())

    def steps(self, order: LaneOrder) -> Ints:
        """Step [rows] that takes each row, rising."""
        return np.sort(self._steps(order))

    def rows(self, order: LaneOrder) -> tuple[Ints, Ints]:
        """Row number and epoch [rows] of each row, by step, then by group."""
        parts = zip(self.epoch.tolist(), self.group.tolist(), strict=True)
        rows = [order.group_first_row[g] + order.rows_of_group(e, g) for e, g in parts]
        by_step = np.argsort(self._steps(order), kind="stable")
        epoch = np.repeat(self.epoch, order.group_rows[self.group])
        return np.concatenate(rows)[by_step], epoch[by_step]

    def _steps(self, order: LaneOrder) -> Ints:
        sizes = order.group_rows[self.group]
        first = np.repeat(self.place - (np.cumsum(sizes) - sizes), sizes)
        return (first + np.arange(len(first))) // order.rows_per_lane


def units(
    order: LaneOrder, *, rank: int, world_size: int, start: int, stop: int, unit_rows: int
) -> Iterator[Unit]:
    """Units of worker ``rank`` for the global steps ``start`` … ``stop - 1``.

    Rows of steps outside that range may be in the first and the last units.
    """
    epoch, _ = order.locate(start)
    taken: list[tuple[int, int, int]] = []
    size = 0
    while (begin := order.steps_before(epoch)) < stop:
        plan = order.plan(epoch)
        place = begin * order.rows_per_lane + plan.start
        mine = (plan.lane % world_size == rank) & (plan.rows > 0)
        mine &= (place + plan.rows - 1) // order.rows_per_lane >= start
        mine &= place // order.rows_per_lane < stop
        for i in np.flatnonzero(mine):
            taken.append((epoch, int(plan.group[i]), int(place[i])))
            size += int(plan.rows[i])
            if size >= unit_rows:
                yield Unit(*np.asarray(taken, dtype=np.int64).T)
                taken, size = [], 0
        epoch += 1
    if taken:
        yield Unit(*np.asarray(taken, dtype=np.int64).T)


@dataclass(frozen=True)
class UnitReader:
    """Reads the training histories of a unit from the shards; runs in Ray tasks, or in the worker.

    Args:
        prepare: the prepare folder.
        manifest: of it.
        order: of the stage.
        columns: columns of the histories beside user, item and split.
        max_length: interactions kept of a longer history.
        random_window: keep a random window that is different in every epoch, not the last one.
        shuffled: order the interactions of a history at random, another way in every epoch.
        strangers: the users are not those of the job, and get the id 0.
        keep: keep in memory what was read.
    """

    prepare: Folder
    manifest: Manifest
    order: LaneOrder
    columns: tuple[str, ...]
    max_length: int
    random_window: bool
    shuffled: bool = False
    strangers: bool = False
    keep: bool = False
    _kept: dict[int, Histories] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    @property
    def bytes_per_row(self) -> int:
        """Of what is read, about: user, row and offset, and the interactions."""
        average = self.manifest.rows_kept / max(self.manifest.histories, 1)
        values = sum(c.HISTORY.field(name).type.value_type.bit_width for name in self.columns) // 8
        return int(min(average, self.max_length) * (8 + values)) + 24

    def read(self, unit: Unit) -> Histories:
        """Histories of the unit in the order of :meth:`Unit.rows`, training interactions only."""
        everything = Histories.concat([self._group(int(g)) for g in np.unique(unit.group)])
        row, epoch = unit.rows(self.order)
        index = np.searchsorted(everything.row, row)  # row numbers rise with the groups
        if self.shuffled:
            everything = everything.take(index).shuffled(self.order.seed, epoch)
            index = np.arange(len(row))
        start = np.maximum(everything.lengths[index] - self.max_length, 0)
        if self.random_window:
            drawn = uniform(self.order.seed, Stream.WINDOWS, epoch, row)
            start = (drawn * (start + 1)).astype(np.int64)
        return everything.take(index, start, self.max_length)

    def _group(self, group: int) -> Histories:
        if not self.keep:
            return self._read_group(group)
        if group not in self._kept:
            self._kept[group] = self._read_group(group).copy()
        return self._kept[group]

    def _read_group(self, group: int) -> Histories:
        shard = self.manifest.shards[int(self.order.group_shard[group])]
        number = int(self.order.group_in_shard[group])
        place = self.prepare / shard.path
        try:
            with pq.ParquetFile(place.path, filesystem=place.fs, pre_buffer=True) as file:
                table = file.read_row_group(
                    number, columns=[c.USER, c.ITEM, c.SPLIT, *self.columns], use_threads=False
                )
        except (OSError, pa.ArrowException) as e:
            raise ShardError(
                "a shard cannot be read",
                where=f"{place}, row group {number}",
                value=(str(e).strip() or repr(e)).splitlines()[0],
                fix="restore the file, or run the prepare stage again with --fresh",
            ) from e
        first = int(self.order.group_first_row[group])
        histories = Histories.from_table(table, first + np.arange(len(table))).training()
        if self.strangers:
            return replace(histories, user=np.zeros_like(histories.user))
        return histories
