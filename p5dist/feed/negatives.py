"""Candidates of a loss over the catalogue: all items, or negatives shared by the global batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from p5dist.config.losses import FullSoftmax, GeneralisedBce, SampledSoftmax
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints
from p5dist.data.randomness import Stream, hashed, uniform
from p5dist.feed.mix import largest_remainder

Gather = Callable[[Ints], list[Ints]]
"""Equally shaped arrays of all workers, in the order of ranks."""
LogQ = npt.NDArray[np.float32]

_NOTHING = np.iinfo(np.int64).max


def alone(values: Ints) -> list[Ints]:
    """Gather of a single worker."""
    return [values]


class Candidates:
    """The items that the targets of a step are compared with, the same on every worker.

    Args:
        loss: full softmax, sampled softmax or gBCE.
        counts: [largest id] training interactions of item id i + 1.
        catalogue: the items that may be candidates.
        seed: of the job.
        only_seen: leave out items without training interaction.
        met: [largest id] expected interactions in the windows of training, for in-batch negatives;
            None: no history is cut, so these are the counts.
        gather: for in-batch negatives, of several workers.
    """

    def __init__(
        self,
        loss: FullSoftmax | SampledSoftmax | GeneralisedBce,
        counts: Ints,
        catalogue: Catalogue,
        seed: int,
        *,
        only_seen: bool = False,
        met: Floats | None = None,
        gather: Gather = alone,
    ) -> None:
        self.seed = seed
        self.gather = gather
        self.shares = shares_of(loss)
        """Negatives of each distribution; none where all items are candidates."""
        ids = catalogue.ids
        if only_seen:
            ids = ids[counts[ids - 1] > 0]
        met = counts.astype(np.float64) if met is None else met
        counts, met = counts[ids - 1], met[ids - 1]
        self._ids = ids
        alpha = loss.alpha if isinstance(loss, SampledSoftmax) else 0.0
        weights = {
            "uniform": np.ones(len(ids)),
            "popularity": np.maximum(counts, 1).astype(np.float64) ** alpha,
            "in_batch": met,
        }
        self._probability = {name: weights[name] / weights[name].sum() for name in self.shares}
        self._cumulative = {name: np.cumsum(p) for name, p in self._probability.items()}

    def at(self, step: int, histories: Histories) -> tuple[Ints, LogQ | None]:
        """Candidate ids [C] of a step and, for drawn ones, the logarithm of the expected number of
        draws of each [C] (logQ). With in-batch negatives all workers call it together.

        Args:
            histories: of this worker's part of the step.
        """
        if not self.shares:
            return self._ids, None
        drawn = {
            name: self._in_batch(n, step, histories)
            if name == "in_batch"
            else self._draw(name, n, step)
            for name, n in self.shares.items()
        }
        index = np.concatenate(list(drawn.values()))
        expected = np.zeros(len(index))
        for name, own in drawn.items():
            expected += len(own) * self._probability[name][index]
        return self._ids[index], np.log(expected).astype(np.float32)

    def _draw(self, distribution: str, n: int, step: int) -> Ints:
        """Indices [n] drawn with replacement."""
        cumulative = self._cumulative[distribution]
        kind = (
            (Stream.NEGATIVES, step)
            if distribution == "popularity"
            else (Stream.NEGATIVES, step, 1)
        )
        drawn = uniform(self.seed, *kind, np.arange(n)) * cumulative[-1]
        index: Ints = np.searchsorted(cumulative, drawn, side="right").astype(np.int64)
        return np.minimum(index, len(cumulative) - 1)

    def _in_batch(self, n: int, step: int, histories: Histories) -> Ints:
        """Indices of the items of at most n interactions of the global batch.

        The interactions with the smallest hashes are taken: the same set however the batch is
        spread over the workers, and no worker sends more than its own n smallest.
        """
        row, position = np.repeat(histories.row, histories.lengths), histories.position()
        key = (
            hashed(self.seed, Stream.IN_BATCH_NEGATIVES, step, row, position) >> np.uint64(1)
        ).view(np.int64)
        key = key[: len(position)]
        mine = np.full((2, n), _NOTHING, dtype=np.int64)
        smallest = np.argsort(key, kind="stable")[:n]
        mine[:, : len(smallest)] = key[smallest], histories.item[smallest]
        key, item = np.concatenate(self.gather(mine), axis=1)
        chosen = np.argsort(key, kind="stable")[:n]
        found = item[chosen[key[chosen] < _NOTHING]]
        index: Ints = np.searchsorted(self._ids, found).astype(np.int64)
        return index


def shares_of(loss: FullSoftmax | SampledSoftmax | GeneralisedBce) -> dict[str, int]:
    """Negatives of each distribution, which add up to loss.negatives (largest remainder)."""
    if isinstance(loss, FullSoftmax):
        return {}
    if isinstance(loss, GeneralisedBce):
        return {"uniform": loss.negatives}
    if isinstance(loss.distribution, str):
        return {loss.distribution: loss.negatives}
    whole = largest_remainder(loss.negatives, list(loss.distribution.values()))
    return dict(zip(loss.distribution, whole.tolist(), strict=True))
