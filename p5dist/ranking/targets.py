"""What is evaluated: held-out interactions and the histories before them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """B histories up to the evaluated split, and the M interactions of that split."""

    histories: Histories
    owner: Ints
    """[M] index of the history, rising"""
    user: Ints
    """[M]"""
    item: Ints
    """[M]"""
    timestamp: Ints
    """[M] seconds"""
    event: npt.NDArray[np.int8]
    """[M]"""
    rating: npt.NDArray[np.float32]
    """[M]"""

    @classmethod
    def of(cls, histories: Histories, split: int) -> tuple[Targets, int]:
        """Targets of the users that have any, and the number of users left out because nothing
        is known about them before."""
        known = histories.where(histories.split < split)
        wanted = histories.where(histories.split == split)
        new = (known.lengths == 0) & (wanted.lengths > 0)
        chosen = np.flatnonzero((wanted.lengths > 0) & ~new)
        wanted = wanted.take(chosen)
        owner = wanted.owner()
        found = cls(
            known.take(chosen), owner, wanted.user[owner], wanted.item, wanted.timestamp,
            wanted.event, wanted.rating,
        )  # fmt: skip
        return found, int(new.sum())

    def batches(self, size: int) -> Iterable[Targets]:
        """The targets of ``size`` histories at a time."""
        for start in range(0, len(self.histories), size):
            part = self.histories.take(np.arange(start, min(start + size, len(self.histories))))
            m = slice(*np.searchsorted(self.owner, (start, start + len(part))))
            yield Targets(
                part, self.owner[m] - start, self.user[m], self.item[m], self.timestamp[m],
                self.event[m], self.rating[m],
            )  # fmt: skip


@dataclass(frozen=True)
class Clicks:
    """E examples of a click task: targets, and items drawn as a no beside them."""

    target: Ints
    """[E] index of the target that the example is, or beside which it was drawn"""
    owner: Ints
    """[E] index of the history"""
    item: Ints
    """[E] item id"""
    label: Floats
    """[E] 1 for a yes, 0 for a no"""
    probability: Floats
    """[E] of a yes"""
