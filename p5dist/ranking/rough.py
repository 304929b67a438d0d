"""Exact scores for the head of lists that were made from rounded products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from p5dist.data.jagged import Ints
from p5dist.ranking.tiles import Query
from p5dist.ranking.topk import MISSED, Lists, Ranked, placed

HEAD = 2
"""Candidates for each item of a list."""
_TILE = 256  # users whose candidates have their vectors in memory at once


def with_exact_head(
    query: Query, rough: Ranked, vectors: Callable[[Ints], Tensor], k: int, offset: Tensor | None
) -> Ranked:
    """The k best of the candidates of each user by products in float32; ties: the lower id first.

    A list is exact if its items are among the candidates. Targets among the first k have their
    rank in the list, others the rank by the rounded products, but at least k + 1.

    Args:
        rough: ranks, and lists of candidates [B, C], by rounded products.
        vectors: ids [n] → [n, dim]
        offset: [largest id] what is added to the scores.
    """
    ranks, candidates = rough
    offset = offset if offset is None else offset.to(query.users.device)
    parts = [
        _rescored(query.users[begin : begin + _TILE], candidates.ids[begin : begin + _TILE],
                  vectors, offset)
        for begin in range(0, len(candidates.ids), _TILE)
    ]  # fmt: skip
    ids = np.concatenate([candidates.ids[:0], *(ids for ids, _ in parts)])[:, :k]
    scores = np.concatenate([candidates.scores[:0], *(scores for _, scores in parts)])[:, :k]
    listed = ids[query.owner] == query.target[:, None]
    place = np.where(listed.any(1), listed.argmax(1) + 1, np.maximum(ranks, ids.shape[1] + 1))
    return np.where(ranks == MISSED, MISSED, place), Lists(ids, scores)


def _rescored(
    users: Tensor, ids: Ints, vectors: Callable[[Ints], Tensor], offset: Tensor | None
) -> tuple[Ints, np.ndarray]:
    """[b, C] the candidates in the order of their exact scores, and these."""
    distinct, place = np.unique(ids, return_inverse=True)
    first = int(distinct[0] == 0) if len(distinct) else 0
    known = vectors(distinct[first:])
    known = torch.cat([known.new_zeros(first, users.shape[1]), known])
    own = known[placed(place.reshape(ids.shape), users.device)]  # [b, C, dim]
    # In double precision: the last bits of a sum depend on its place in a matrix, and equal items
    # must have equal scores.
    scores = torch.einsum("bd,bcd->bc", users.double(), own.double()).float()
    if offset is not None:
        scores = scores + offset[placed(np.maximum(ids, 1) - 1, users.device)]
    found = np.where(ids > 0, scores.cpu().numpy(), np.float32(-np.inf))
    order = np.lexsort((ids, -found))
    return np.take_along_axis(ids, order, 1), np.take_along_axis(found, order, 1)
