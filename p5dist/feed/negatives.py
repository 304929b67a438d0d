"""Candidates of a loss over the catalogue: all items, or negatives shared by the global batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from p5dist.config.losses import FullSoftmax, SampledSoftmax
from p5dist.feed.histories import Ints
from p5dist.feed.randomness import uniform

_NEGATIVES = 4  # which kind of random number a hash belongs to


class Candidates:
    """What the positives of step ``step`` are compared with, the same on every worker.

    Args:
        loss: full or sampled softmax.
        counts: [items] training interactions of item id i + 1.
        seed: of the job.
    """

    def __init__(self, loss: FullSoftmax | SampledSoftmax, counts: Ints, seed: int) -> None:
        self.loss = loss
        self.items = len(counts)
        self.seed = seed
        if isinstance(loss, SampledSoftmax):
            alpha = 0.0 if loss.distribution == "uniform" else loss.alpha
            weight = np.maximum(counts, 1).astype(np.float64) ** alpha
            self._probability = weight / weight.sum()
            self._cumulative = np.cumsum(self._probability)

    def at(self, step: int) -> tuple[Ints, npt.NDArray[np.float32] | None]:
        """Candidate ids [C] and, for sampled ones, the logarithm of the expected number of draws
        of each [C] (logQ)."""
        if not isinstance(self.loss, SampledSoftmax):
            return np.arange(1, self.items + 1, dtype=np.int64), None
        n = self.loss.negatives
        drawn = uniform(self.seed, _NEGATIVES, step, np.arange(n)) * self._cumulative[-1]
        index = np.searchsorted(self._cumulative, drawn, side="right")
        index = np.minimum(index, self.items - 1)
        return index + 1, np.log(n * self._probability[index]).astype(np.float32)
