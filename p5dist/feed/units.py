"""Read units: the row groups that one Ray task reads, and the step that takes each row.

A worker's stream is the sequence of row groups of its lanes, epoch after epoch, cut into units of
about ``unit_rows`` histories. A unit of a large data set is a part of one epoch; a unit of a small
one spans many epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.randomness import Stream, uniform
from p5dist.data.reader import ShardReader
from p5dist.feed.order import LaneOrder


@dataclass(frozen=True)
class Unit:
    """Row groups, each in the row order of its epoch."""

    epoch: Ints
    """[n]"""
    group: Ints
    """[n] index of the row group in the data set"""
    position: Ints
    """[n] of the group's first row in its lane, counted from the first row of the first epoch as
    if every step had taken a whole batch: step s takes the positions s·b … (s+1)·b - 1"""

    def size(self, order: LaneOrder) -> int:
        """Rows."""
        return int(order.groups.rows[self.group].sum())

    def steps(self, order: LaneOrder) -> Ints:
        """Step [rows] that takes each row, rising."""
        return np.sort(self._steps(order))

    def rows(self, order: LaneOrder) -> tuple[Ints, Ints]:
        """Row number and epoch [rows] of each row, by step, then by group."""
        parts = zip(self.epoch.tolist(), self.group.tolist(), strict=True)
        rows = [order.rows_of_group(e, g) for e, g in parts]
        by_step = np.argsort(self._steps(order), kind="stable")
        epoch = np.repeat(self.epoch, order.groups.rows[self.group])
        return np.concatenate(rows)[by_step], epoch[by_step]

    def _steps(self, order: LaneOrder) -> Ints:
        sizes = order.groups.rows[self.group]
        first = np.repeat(self.position - (np.cumsum(sizes) - sizes), sizes)
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
        groups = order.of_epoch(epoch)
        position = begin * order.rows_per_lane + groups.start
        mine = (groups.lane % world_size == rank) & (groups.rows > 0)
        mine &= (position + groups.rows - 1) // order.rows_per_lane >= start
        mine &= position // order.rows_per_lane < stop
        for i in np.flatnonzero(mine):
            taken.append((epoch, int(groups.group[i]), int(position[i])))
            size += int(groups.rows[i])
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
        shards: reads row groups.
        order: of the stage.
        max_length: interactions kept of a longer history.
        random_window: keep a random window, another one in every epoch, instead of the last window.
        shuffled: order the interactions of a history at random, another way in every epoch.
        whole_users: histories know all training items of their users (``Histories.had``).
        strangers: the users are unknown to the job and get the id 0.
        keep: keep row groups in memory once they are read.
    """

    shards: ShardReader
    order: LaneOrder
    max_length: int
    random_window: bool
    shuffled: bool = False
    whole_users: bool = False
    strangers: bool = False
    keep: bool = False
    _kept: dict[int, Histories] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    @property
    def bytes_per_row(self) -> int:
        """Approximate size of a history that was read: user, row, offset and interactions."""
        manifest = self.shards.manifest
        average = manifest.rows_kept / max(manifest.histories, 1)
        kinds = [c.HISTORY.field(name).type.value_type for name in self.shards.columns]
        width = 8 + sum(kind.bit_width for kind in kinds) // 8
        whole = 8 * manifest.rows_kept / max(manifest.users, 1) if self.whole_users else 0
        return int(min(average, self.max_length) * width + whole) + 24

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
        histories = self.shards.group(group)
        had, had_of = None, None
        if self.whole_users:
            had, had_of = self.shards.training_items(group, histories)
        histories = replace(histories.training(), had=had, had_of=had_of)
        if self.strangers:
            return replace(histories, user=np.zeros_like(histories.user))
        return histories
