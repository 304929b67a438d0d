"""Items drawn as negatives of a task whose log holds positives only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.randomness import Stream, uniform

_TRIES = 4


@dataclass(frozen=True)
class Unclicked:
    """Draws items that a history does not hold, evenly among the catalogue.

    Args:
        number: n of each interaction.
        items: largest item id.
        seed: of the job.
    """

    number: int
    items: int
    seed: int

    def __call__(self, histories: Histories, step: int) -> Ints:
        """[T, n] item ids for every interaction, a function of (seed, step, row, position); 0
        where four draws gave items of the history."""
        owner = histories.owner()
        return self.of(histories, owner, histories.row[owner], histories.position(), step)

    def of(
        self,
        histories: Histories,
        owner: Ints,
        row: Ints,
        position: Ints,
        step: int,
        item: Ints | None = None,
    ) -> Ints:
        """[M, n] as above for M targets of histories ``owner`` [M], each known by its ``row`` and
        ``position``; those outside of the history have the items ``item`` [M]."""
        had = np.unique(histories.owner() * (self.items + 1) + histories.item)
        found = np.zeros((len(owner), self.number), dtype=np.int64)
        place = np.arange(self.number)
        for attempt in range(_TRIES):
            drawn = uniform(
                self.seed,
                Stream.CLICK_NEGATIVES,
                step,
                row[:, None],
                position[:, None],
                place,
                attempt,
            ).reshape(-1, self.number)[: len(owner)]
            candidate = 1 + (drawn * self.items).astype(np.int64)
            key = owner[:, None] * (self.items + 1) + candidate
            index = np.minimum(np.searchsorted(had, key), max(len(had) - 1, 0))
            new = had[index] != key if len(had) else np.ones(key.shape, dtype=bool)
            if item is not None:
                new &= candidate != item[:, None]
            found = np.where((found == 0) & new, candidate, found)
        return found
