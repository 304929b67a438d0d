"""Lists that do not show the same thing twice: maximal marginal relevance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p5dist.data.jagged import Bools, Floats, Ints
from p5dist.ranking.topk import Lists

_TILE = 256  # users whose candidates have their vectors in memory at once


def diversified(lists: Lists, vectors: Callable[[Ints], Tensor], k: int, diversity: float) -> Lists:
    """The k items of each list that maximal marginal relevance chooses, in that order
    (Carbonell and Goldstein 1998, "The use of MMR, diversity-based reranking for reordering
    documents and producing summaries").

    The next item is the one with the largest ``(1 - δ) · r - δ · c``; of equal ones, the one with
    the lower id. r is the score of the item, scaled linearly so that the candidates of a user have
    0…1 (all 1, if their scores are equal); c is the largest cosine of its vector with the vector
    of an item that is already chosen, 0 for the first item. A vector of zeros has cosine 0. Cosines
    are rounded to 6 decimals: the last bits of a product depend on its place in a matrix.

    Args:
        lists: [B, C] the candidates of each user.
        vectors: ids [n] → [n, dim]
        k: items to choose; no more than C are.
        diversity: δ, 0 ≤ δ < 1.

    Returns:
        [B, k] with the scores of ``lists``, which need not fall.
    """
    k = min(k, lists.ids.shape[1])
    ids, scores = [lists.ids[:0, :k]], [lists.scores[:0, :k]]
    for begin in range(0, len(lists.ids), _TILE):
        tile = slice(begin, begin + _TILE)
        order = np.argsort(lists.ids[tile], axis=1, kind="stable")  # argmax takes the first
        candidates = np.take_along_axis(lists.ids[tile], order, axis=1)
        score = np.take_along_axis(lists.scores[tile], order, axis=1)
        chosen = _choose(candidates, score, vectors, k, diversity)
        there = np.take_along_axis(candidates, chosen, axis=1) > 0
        # Shorter lists end with id 0: these are chosen last.
        ids.append(np.where(there, np.take_along_axis(candidates, chosen, axis=1), 0))
        found = np.take_along_axis(score, chosen, axis=1)
        scores.append(np.where(there, found, np.float32(-np.inf)))
    return Lists(np.concatenate(ids), np.concatenate(scores))


def _choose(
    ids: Ints,
    scores: npt.NDArray[np.float32],
    vectors: Callable[[Ints], Tensor],
    k: int,
    diversity: float,
) -> Ints:
    """[b, k] places among the candidates [b, C], whose ids rise."""
    distinct, place = np.unique(ids, return_inverse=True)
    first = int(distinct[0] == 0)
    known = torch.nn.functional.normalize(vectors(distinct[first:]).cpu(), dim=1, eps=1e-12)
    if first:
        known = torch.cat([known.new_zeros(1, known.shape[1]), known])
    own = known[torch.from_numpy(place.reshape(ids.shape))]  # [b, C, dim]
    rows = torch.arange(len(ids))
    relevance = _scaled(scores, ids > 0)
    nearest = np.full(ids.shape, -np.inf)
    left: Floats = np.where(ids > 0, 0.0, -np.inf)
    chosen = np.zeros((len(ids), k), dtype=np.int64)
    for step in range(k):
        cosine = nearest if step else np.zeros(ids.shape)
        best = np.argmax((1 - diversity) * relevance - diversity * cosine + left, axis=1)
        chosen[:, step] = best
        left[rows.numpy(), best] = -np.inf
        with_it = torch.bmm(own, own[rows, torch.from_numpy(best)][:, :, None])[:, :, 0]
        nearest = np.maximum(nearest, np.round(with_it.double().numpy(), 6))
    return chosen


def _scaled(scores: npt.NDArray[np.float32], there: Bools) -> Floats:
    """[b, C] scores from 0 (the least of a row) to 1 (the greatest); 0 where there is no item."""
    values = scores.astype(np.float64)
    low = np.where(there, values, np.inf).min(axis=1, keepdims=True)
    high = np.where(there, values, -np.inf).max(axis=1, keepdims=True)
    span = np.where(np.isfinite(high - low) & (high > low), high - low, 1.0)
    return np.where(there, np.where(high > low, (values - low) / span, 1.0), 0.0)
