"""Items drawn as negatives of a task whose log holds positives only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged, contains
from p5dist.data.randomness import Stream, uniform

_TRIES = 4


@dataclass(frozen=True)
class Unclicked:
    """Draws items that a user has not had, uniformly from the catalogue.

    In training, all training interactions of the user count as had, including those that the
    encoder does not see because ``feed.max_length`` or windows cut the history.

    Args:
        number: n, items drawn per interaction.
        catalogue: the items that are drawn from.
        seed: of the job.
    """

    number: int
    catalogue: Catalogue
    seed: int

    def drawn(self, histories: Histories, step: int) -> Ints:
        """[T, n] item ids for every interaction, a function of (seed, step, row, position); 0 if
        four draws all gave items that the user has had."""
        if not len(histories):
            return np.zeros((0, self.number), dtype=np.int64)
        assert histories.had is not None and histories.had_of is not None, "the feed reads them"
        owner = histories.owner()
        users, of = np.unique(histories.had_of, return_inverse=True)
        had = histories.had.take(users)
        return self.draw(had, of[owner], histories.row[owner], histories.position(), step)

    def draw(self, had: Jagged, owner: Ints, row: Ints, position: Ints, step: int) -> Ints:
        """[M, n] item ids as :meth:`drawn`, for M targets at ``row`` and ``position``.

        Args:
            had: lists of items that are not drawn.
            owner: [M] index of the target's list in ``had``.
        """
        width = self.catalogue.largest + 1
        keys = np.unique(had.owner() * width + had.values)
        found = np.zeros((len(owner), self.number), dtype=np.int64)
        column = np.arange(self.number)
        for attempt in range(_TRIES):
            number = uniform(
                self.seed, Stream.CLICK_NEGATIVES, step, row[:, None], position[:, None],
                column, attempt,
            ).reshape(-1, self.number)[: len(owner)]  # fmt: skip
            candidate = self.catalogue.at((number * len(self.catalogue)).astype(np.int64))
            new = ~contains(keys, owner[:, None] * width + candidate)
            found = np.where((found == 0) & new, candidate, found)
        return found
