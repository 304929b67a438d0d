"""Pairs of items that lie close to each other, for the skip-gram objective."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.randomness import Stream, uniform
from p5dist.feed.batch_fields import Collated
from p5dist.tasks.predictions import Predictions, TargetWeights


class SkipGrams(Predictions):
    """Pairs of centre and context (Mikolov et al. 2013): frequent items are left out at random,
    then every centre takes n items on each side, n drawn uniformly from 1…window.

    Args:
        window: as in :class:`p5dist.tasks.skip_gram.SkipGram`.
        keep: [items] probability that an interaction with item id i + 1 stays.
        seed: of the job.
        weights: of contexts.
    """

    def __init__(
        self, window: int, keep: npt.NDArray[np.float32], seed: int, weights: TargetWeights
    ) -> None:
        super().__init__(weights, ranks=True)
        self.window, self.keep, self.seed = window, keep, seed

    def choose(self, batch: Collated) -> tuple[Ints, Ints]:
        centre, context = self.pairs(batch.histories, batch.step)
        return centre, context

    def pairs(self, histories: Histories, step: int) -> Ints:
        """[2, P] centre and context of every pair, as indices among the T interactions."""
        if not len(histories.item):
            return np.zeros((2, 0), np.int64)
        owner, position = histories.owner(), histories.position()
        row = histories.row[owner]
        drawn = uniform(self.seed, Stream.SKIP_GRAM_KEPT, step, row, position)
        kept = np.flatnonzero(drawn < self.keep[histories.item - 1])
        owner, row, position = owner[kept], row[kept], position[kept]
        width = 1 + (
            uniform(self.seed, Stream.SKIP_GRAM_WINDOW, step, row, position) * self.window
        ).astype(int)
        pairs = []
        for gap in range(1, min(self.window, len(kept) - 1) + 1):
            first, second = kept[:-gap], kept[gap:]
            together = owner[gap:] == owner[:-gap]
            after, before = together & (width[:-gap] >= gap), together & (width[gap:] >= gap)
            pairs.append(np.stack([first[after], second[after]]))
            pairs.append(np.stack([second[before], first[before]]))
        return np.concatenate([np.zeros((2, 0), np.int64), *pairs], axis=1)


def keep_rates(subsample: float, counts: Ints) -> npt.NDArray[np.float32]:
    """[items] probability that an interaction with item id i + 1 stays.

    Args:
        subsample: as in :class:`p5dist.tasks.skip_gram.SkipGram`.
        counts: [items] training interactions of item id i + 1.
    """
    frequency = np.maximum(counts, 1) / max(int(counts.sum()), 1)
    keep = np.sqrt(subsample / frequency) if subsample else np.ones(len(counts))
    return np.minimum(keep, 1).astype(np.float32)
