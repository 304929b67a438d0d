"""The positions that the masked objective hides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Floats, Ints
from p5dist.data.randomness import Stream, uniform
from p5dist.feed.masking import Hidden


@dataclass(frozen=True)
class Cloze:
    """Chooses positions of histories with two interactions or more.

    A history of the share ``last_share`` is cut at a random position (:meth:`cut`), and only its
    last interaction is chosen and hidden. Of other histories each position is chosen with
    ``probability``, and the last position if none is drawn; of the chosen positions 80 % are
    hidden, 10 % show a random item, 10 % stay (Devlin et al. 2019).

    Args:
        probability, last_share: as in :class:`p5dist.tasks.masked.Masked`.
        catalogue: the items that are shown instead.
        seed: of the job.
    """

    probability: float
    last_share: float
    catalogue: Catalogue
    seed: int

    def cut(self, histories: Histories, step: int) -> Histories:
        """Cut the histories that hide only their last position at a random position, the second or
        a later one: otherwise a short history would have the same target at every step, and the
        model would memorise it."""
        drawn = self._uniform(Stream.MASKED_END, step, histories.row)
        ends = 2 + (drawn * (histories.lengths - 1)).astype(np.int64)
        lengths = np.where(self._only_last(histories, step), ends, histories.lengths)
        return histories.where(histories.position() < lengths[histories.owner()])

    def __call__(self, histories: Histories, step: int) -> Hidden:
        """The chosen positions at global step ``step``, a function of (seed, step, row,
        position)."""
        lengths = histories.lengths
        owner, position = histories.owner(), histories.position()
        row = histories.row[owner]
        drawn = self._uniform(Stream.MASKED_POSITIONS, step, row, position)
        last = position + 1 == lengths[owner]
        only_last = self._only_last(histories, step)
        chosen = (drawn < self.probability) & ~only_last[owner]
        none = np.bincount(owner[chosen], minlength=len(histories)) == 0
        chosen |= last & none[owner]
        chosen &= lengths[owner] > 1
        way = self._uniform(Stream.MASKED_HOW, step, row, position)
        hidden = chosen & ((way < 0.8) | only_last[owner])
        other = chosen & ~hidden & (way < 0.9)
        drawn = self._uniform(Stream.MASKED_OTHER_ITEM, step, row, position)
        random = self.catalogue.at((drawn * len(self.catalogue)).astype(np.int64))
        return Hidden(chosen, hidden, np.where(other, random, histories.item))

    def _only_last(self, histories: Histories, step: int) -> Bools:
        """[B] histories that hide their last position only."""
        return self._uniform(Stream.MASKED_LAST, step, histories.row) < self.last_share

    def _uniform(self, kind: int, step: int, *coordinates: Ints) -> Floats:
        return uniform(self.seed, kind, step, *coordinates)[: len(coordinates[0])]
