"""The order of training: which histories make up the global batch of every step.

An epoch permutes the row groups of all shards and deals them to C lanes; inside a group the rows
are permuted. Step s of an epoch takes rows s·b … (s+1)·b - 1 of every lane, so that the global
batch has B = C·b histories. All of it is a pure function of (seed, manifest, C, b): the position
in the data is the number of steps taken, and nothing depends on the number of workers.

Lanes are not equally long; the last steps of an epoch have the rows of the longer lanes only, and
every history is in exactly one step of an epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from p5dist.config.train import Training
from p5dist.data.jagged import Ints, Jagged
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import Stream, permutation
from p5dist.data.row_groups import RowGroups
from p5dist.errors import ConfigError

_EPOCHS, _LEAST_STEPS, _MOST_STEPS = 20, 1_500, 100_000
"""Of a stage whose length the job leaves out."""


@dataclass(frozen=True)
class EpochOrder:
    """Row groups of one epoch in the order of lane position.

    Entry i is a whole row group; entries are sorted by (start, lane), the order in which the
    steps need them.
    """

    epoch: int
    group: Ints
    """[n] index of the row group in the data set"""
    lane: Ints
    """[n]"""
    start: Ints
    """[n] row of the lane at which the group begins"""
    rows: Ints
    """[n] rows of the group"""
    steps: int
    """Steps of this epoch."""


class LaneOrder:
    """The order of one training stage.

    Args:
        manifest: of the prepared data.
        lanes: C.
        batch_size: B, a multiple of C.
        seed: of the job.
        first_row: number of the data set's first row, where several are mixed.
        chosen: the histories that are trained on, see :attr:`.RowGroups.chosen`.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        lanes: int,
        batch_size: int,
        seed: int,
        first_row: int = 0,
        chosen: Jagged | None = None,
    ) -> None:
        if batch_size % lanes:
            raise ConfigError(
                "the batch size does not fit the lanes",
                where="batch_size",
                value=batch_size,
                rule=f"a multiple of feed.lanes = {lanes}",
                fix="change either",
            )
        self.lanes = lanes
        self.rows_per_lane = batch_size // lanes
        self.seed = seed
        self.first_row = first_row
        groups = RowGroups.of(manifest, first_row)
        self.groups = groups if chosen is None else groups.only(chosen)
        self._epochs: dict[int, EpochOrder] = {}
        self._begins = [0]  # first step of every epoch known so far

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_epochs": {}}

    def of_epoch(self, epoch: int) -> EpochOrder:
        """The order of the row groups in an epoch (from 0)."""
        found = self._epochs.get(epoch) or self._deal(epoch)
        # Replaced and not changed, since a thread that reads ahead asks as well.
        recent = {e: p for e, p in self._epochs.items() if e >= epoch - 3}
        self._epochs = {**recent, epoch: found}
        return found

    def _deal(self, epoch: int) -> EpochOrder:
        group = permutation(len(self.groups.rows), self.seed, Stream.ROW_GROUPS, epoch)
        rows = self.groups.rows[group]
        # Deal: the groups at l, l + C, l + 2C, … of the permutation go to lane l.
        lane = np.arange(len(group)) % self.lanes
        padded = np.zeros(-(-len(group) // self.lanes) * self.lanes, dtype=np.int64)
        padded[: len(group)] = rows
        table = padded.reshape(-1, self.lanes)
        start = (np.cumsum(table, axis=0) - table).reshape(-1)[: len(group)]
        longest = int(table.sum(axis=0).max())
        by_need = np.lexsort((lane, start))
        return EpochOrder(
            epoch=epoch,
            group=group[by_need],
            lane=lane[by_need],
            start=start[by_need],
            rows=rows[by_need],
            steps=-(-longest // self.rows_per_lane),
        )

    def steps_before(self, epoch: int) -> int:
        """Steps of all epochs before ``epoch``."""
        begins = self._begins
        while len(begins) <= epoch:
            begins = [*begins, begins[-1] + self.of_epoch(len(begins) - 1).steps]
        self._begins = begins
        return begins[epoch]

    def steps_in(self, epoch: int) -> int:
        """Steps of an epoch."""
        return self.steps_before(epoch + 1) - self.steps_before(epoch)

    def total_steps(self, epochs: float) -> int:
        """Steps of ``epochs`` epochs; a fraction is of the epoch after the whole ones."""
        whole = int(epochs)
        steps = self.steps_before(whole)
        if epochs > whole:
            steps += round((epochs - whole) * self.steps_in(whole))
        return max(steps, 1)

    def locate(self, step: int) -> tuple[int, int]:
        """Epoch that global step ``step`` (from 0) belongs to, and its step within the epoch."""
        begins = self._begins
        while begins[-1] <= step:
            begins = [*begins, self.steps_before(len(begins))]
        epoch = bisect_right(begins, step) - 1
        return epoch, step - begins[epoch]

    def rows_of_group(self, epoch: int, group: int) -> Ints:
        """[rows] row numbers of a group in the order of an epoch."""
        rows = int(self.groups.rows[group])
        return self.groups.numbers(group)[permutation(rows, self.seed, Stream.ROWS, epoch, group)]


def total_steps(training: Training, order: LaneOrder) -> int:
    """Steps of a training stage; left out of the job, see :attr:`.Training.epochs`."""
    if training.steps is not None:
        return training.steps
    if training.epochs is not None:
        return order.total_steps(training.epochs)
    one = order.steps_before(1)
    return min(max(one * _EPOCHS, _LEAST_STEPS), max(one, _MOST_STEPS))
