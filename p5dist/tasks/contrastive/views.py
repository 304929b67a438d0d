"""Random views of histories: each history once more, changed a little."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Ints
from p5dist.data.randomness import Stream, hashed, uniform

VIEWS = 2


@dataclass(frozen=True)
class RandomViews:
    """Makes two views of every history, see :class:`p5dist.tasks.contrastive.Contrastive`.

    Args:
        kinds: one is drawn for each view.
        crop, drop, reorder: as the settings.
        seed: of training.
    """

    kinds: tuple[str, ...]
    crop: float
    drop: float
    reorder: float
    seed: int

    def __call__(self, histories: Histories, step: int) -> list[Histories]:
        """VIEWS times the histories, in the same order; a function of (seed, step, row,
        position)."""
        return [self._view(histories, step, number) for number in range(VIEWS)]

    def _view(self, histories: Histories, step: int, number: int) -> Histories:
        at = self.seed, Stream.VIEWS, step, number
        kind = hashed(*at, 0, histories.row)[: len(histories)] % np.uint64(len(self.kinds))
        drawn = uniform(*at, 1, histories.row)[: len(histories)]
        found = self._reordered(histories, self._chosen(kind, "reorder"), drawn, at)
        keep = np.ones(len(found.item), dtype=bool)
        keep &= self._cropped(found, self._chosen(kind, "crop"), drawn)
        keep &= self._dropped(found, self._chosen(kind, "drop"), at)
        return found.where(keep)

    def _chosen(self, kind: np.ndarray, name: str) -> Bools:
        """[B] whether a history is changed in this way."""
        if name not in self.kinds:
            return np.zeros(len(kind), dtype=bool)
        found: Bools = kind == self.kinds.index(name)
        return found

    def _piece(self, histories: Histories, share: float, drawn: np.ndarray) -> Bools:
        """[T] a run of neighbours of each history, ``share`` of it but one at least."""
        lengths = histories.lengths
        size = np.maximum((share * lengths).astype(np.int64), np.minimum(lengths, 1))
        first = (drawn * (lengths - size + 1)).astype(np.int64)
        owner, position = histories.owner(), histories.position()
        found: Bools = (position >= first[owner]) & (position < (first + size)[owner])
        return found

    def _cropped(self, histories: Histories, chosen: Bools, drawn: np.ndarray) -> Bools:
        owner = histories.owner()
        found: Bools = self._piece(histories, self.crop, drawn) | ~chosen[owner]
        return found

    def _dropped(self, histories: Histories, chosen: Bools, at: tuple[int, ...]) -> Bools:
        """[T] what is left; of each history one interaction at least."""
        owner = histories.owner()
        random = uniform(*at, 2, histories.row[owner], histories.position())[: len(owner)]
        keep = (random >= self.drop) | ~chosen[owner]
        kept = np.bincount(owner[keep], minlength=len(histories))
        last = histories.offsets[1:][(kept == 0) & (histories.lengths > 0)] - 1
        keep[last] = True
        return keep

    def _reordered(
        self, histories: Histories, chosen: Bools, drawn: np.ndarray, at: tuple[int, ...]
    ) -> Histories:
        """The interactions of a piece in another order, the times staying where they are."""
        owner, position = histories.owner(), histories.position()
        moved = self._piece(histories, self.reorder, drawn) & chosen[owner]
        random = hashed(*at, 3, histories.row[owner], position)[: len(owner)]
        place = np.flatnonzero(moved)
        order: Ints = np.arange(len(owner))
        order[place] = place[np.lexsort((random[place], owner[place]))]
        return replace(
            histories,
            item=histories.item[order], event=histories.event[order],
            rating=histories.rating[order], split=histories.split[order],
        )  # fmt: skip
