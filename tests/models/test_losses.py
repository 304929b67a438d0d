"""Losses over the catalogue against their formulas."""

from __future__ import annotations

import math

import numpy as np
import torch

from p5dist.batch import Batch
from p5dist.config.losses import FullSoftmax, SampledSoftmax
from p5dist.feed.collate import Collate
from p5dist.feed.negatives import Candidates
from p5dist.models.losses import catalogue_loss
from tests.feed.test_histories import histories

COUNTS = np.asarray([40, 20, 10, 5, 3, 2, 1])
HISTORIES = histories([[1, 4, 2, 7], [3, 3], [5]])
STATES = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


def loss_of_next(states: torch.Tensor, items: torch.Tensor, batch: Batch) -> float:
    now = torch.nonzero(batch.has_next).squeeze(1)
    return float(catalogue_loss(states[now], batch.token[now + 1], items, batch))


def loss_of(loss: FullSoftmax | SampledSoftmax, step: int = 0) -> float:
    ids, log_q = Candidates(loss, COUNTS, 1).at(step)
    batch = Collate(1)(HISTORIES, candidates=ids, candidate_log_q=log_q)
    items = VECTORS[batch.items.values()]
    return loss_of_next(STATES, items, batch)


def partitions() -> tuple[list[float], list[float]]:
    """By hand: (logit of the target, log of the partition) of the four predictions."""
    pairs = [(0, 4), (1, 2), (2, 7), (4, 3)]  # state index, target item
    logits = [float(STATES[i] @ VECTORS[y]) for i, y in pairs]
    sums = [math.log(sum(math.exp(float(STATES[i] @ VECTORS[j])) for j in range(1, 8)))
            for i, _ in pairs]  # fmt: skip
    return logits, sums


def test_full_softmax_is_cross_entropy_over_all_items() -> None:
    logits, sums = partitions()
    assert math.isclose(loss_of(FullSoftmax()), sum(sums) - sum(logits), rel_tol=1e-5)


def test_sampled_softmax_approaches_the_full_one() -> None:
    """With many draws the estimate of the partition converges, whatever the distribution."""
    exact = loss_of(FullSoftmax())
    for distribution in ("uniform", "popularity"):
        sampled = SampledSoftmax(
            kind="sampled_softmax", negatives=60_000, distribution=distribution
        )
        assert abs(loss_of(sampled) - exact) < 0.05


def test_the_partition_is_estimated_without_bias() -> None:
    """The mean over steps of the estimated partition of one prediction is the exact one."""
    loss = SampledSoftmax(kind="sampled_softmax", negatives=8)
    one = histories([[1, 4]])
    candidates = Candidates(loss, COUNTS, 1)
    estimates = []
    for step in range(1500):
        ids, log_q = candidates.at(step)
        batch = Collate(1)(one, candidates=ids, candidate_log_q=log_q)
        items = VECTORS[batch.items.values()]
        value = loss_of_next(STATES[:2], items, batch)
        estimates.append(math.exp(value + float(STATES[0] @ VECTORS[4])))
    exact = math.exp(partitions()[1][0])
    error = np.std(estimates) / len(estimates) ** 0.5
    assert abs(np.mean(estimates) - exact) < 4 * error
    assert error < 0.1 * exact
