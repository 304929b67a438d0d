"""Baselines: popularity and item-to-item for ranking, the global mean and biases for ratings, click
rates of items for clicks. All are fitted on training interactions only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints, Jagged
from p5dist.ranking.topk import MISSED, Lists, row_blocks

WINDOW = 10
"""Interactions after (or before) an item that count as following (preceding) it."""
DISTANCE_DECAY = 0.8
BACKWARD = 0.25
LAST = 10
"""Number of last interactions of a history that item-to-item uses."""
AGE_DECAY = 0.6
FROM_POWER, TO_POWER = 0.5, 0.1

USER_SHRINKAGE, ITEM_SHRINKAGE = 5.0, 3.0
RATE_SHRINKAGE = 10.0
_SWEEPS = 10
_PAIRS = 1 << 24  # item pairs that are counted at once


class Popularity:
    """Ranks items by their number of training interactions, for all users alike.

    Args:
        count: [largest id] training interactions of each id from 1.
        catalogue: the items that are ranked.
    """

    name = "popularity"

    def __init__(self, count: Ints, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._score = np.asarray(count).astype(np.float32)
        ids = catalogue.ids
        self._best = ids[np.argsort(-self._score[ids - 1], kind="stable")]
        self._place = np.full(catalogue.largest + 1, len(ids))  # of an id without item: the end
        self._place[self._best] = np.arange(len(ids))

    def blocks(self, histories: Histories) -> Iterator[tuple[slice, Tensor]]:
        """See :class:`.topk.Ranker`."""
        for rows in row_blocks(len(histories), len(self._score)):
            yield rows, torch.from_numpy(self._score).repeat(rows.stop - rows.start, 1)

    def rank_and_list(
        self, histories: Histories, owner: Ints, target: Ints, k: int, *, seen: Jagged | None
    ) -> tuple[Ints, Lists]:
        """See :class:`.topk.DirectRanker`: places in one order for all, less the seen items
        before them."""
        rows, size = len(histories), len(self._best) + 1
        keys = np.zeros(0, dtype=np.int64)  # row and place of the distinct seen items, rising
        if seen is not None:
            keys = np.unique(seen.owner() * size + self._place[seen.values])
        first = np.searchsorted(keys, np.arange(rows + 1) * size)
        place = self._place[target]
        at = np.searchsorted(keys, owner * size + place)
        hidden = np.append(keys, -1)[at] == owner * size + place
        ranks = np.where(hidden, MISSED, 1 + place - (at - first[owner]))
        # The unseen item number j is at place j + i, i the number of seen items at places up to
        # there: those whose place less the number of seen items before them is at most j.
        row = keys // size
        gap = keys - (np.arange(len(keys)) - first[row])
        wanted = np.arange(k)
        before = np.searchsorted(gap, np.arange(rows)[:, None] * size + wanted, side="right")
        places = wanted + before - first[:-1, None]
        ids = np.append(self._best, 0)[np.minimum(places, size - 1)]
        scores = np.append(self._score, np.float32(-np.inf))[ids - 1]
        return ranks, Lists(ids, scores)


@dataclass(frozen=True)
class ItemToItem:
    """Co-occurrence of items within a window, weighted by recency; no training.

    With the training histories x, the strength of j after i is
    ``c(i, j) = Σ 0.8^(d - 1) · ([x_p = i, x_(p+d) = j] + ¼ [x_p = j, x_(p+d) = i])`` over all
    histories, positions p and distances d = 1…10. With n(i) training interactions of item i, the
    score of j for a history whose last interactions are h_0 (the last), h_1, … is
    ``Σ_{a < 10} 0.6^a · c(h_a, j) / (√(n(h_a) + 1) · (n(j) + 1)^0.1)``.

    This is item-to-item filtering (Linden, Smith and York 2003; Sarwar et al. 2001) with the order
    of time: directed, by distance as in sequential rules (Ludewig and Jannach 2018), the powers
    between raw counts (0) and cosine (½). The constants were chosen once on the validation
    interactions of four public data sets (MovieLens 100K and 1M, Amazon Beauty and Sports).
    """

    catalogue: Catalogue
    weight: csr_array
    """[L, L], L the largest id: c(i, j) / √(n(i) + 1) / (n(j) + 1)^0.1 of the ids i + 1, j + 1"""

    name = "item_to_item"

    @classmethod
    def fit(cls, parts: Iterable[Histories], catalogue: Catalogue) -> ItemToItem:
        """Count the item pairs in training histories; memory grows with the distinct pairs."""
        items = catalogue.largest
        forward, count = csr_array((items, items), dtype=np.float64), np.zeros(items)
        for part in parts:
            count += np.bincount(part.item - 1, minlength=items)
            for piece in _pieces(part):
                forward = forward + _following(piece, items)
        strength = (forward + BACKWARD * forward.T).tocoo()
        weight = strength.data / (count[strength.row] + 1) ** FROM_POWER
        weight /= (count[strength.col] + 1) ** TO_POWER
        return cls(catalogue, csr_array((weight, strength.coords), shape=(items, items)))

    def blocks(self, histories: Histories) -> Iterator[tuple[slice, Tensor]]:
        """See :class:`.topk.Ranker`."""
        recent, items = histories.last(LAST), self.catalogue.largest
        age = recent.lengths[recent.owner()] - 1 - recent.position()
        item, offsets = ((recent.item - 1).astype(np.int32), recent.offsets.astype(np.int32))
        share = csr_array((AGE_DECAY**age, item, offsets), shape=(len(recent), items))
        for rows in row_blocks(len(histories), items):
            scores = share[rows] @ self.weight
            yield rows, torch.from_numpy(scores.astype(np.float32).toarray())


@dataclass(frozen=True)
class Biases:
    """r̂ = μ + b_u + b_i, biases shrunk towards 0 (Koren 2008, section 2.1).

    ``b_i = Σ_u (r - μ - b_u) / (3 + n_i)`` and ``b_u = Σ_i (r - μ - b_i) / (5 + n_u)``, in turns
    (alternating ridge regression). A prediction computes the user's bias from the given history, so
    users need no table.
    """

    mean: float
    item: Floats
    """[items] b_i of each id 1…items; 0 for an item without ratings."""

    @classmethod
    def fit(cls, parts: Iterable[Histories], items: int) -> Biases | None:
        """Fit training histories; None if no interaction has a rating."""
        histories = [_rated(part) for part in parts]
        item = np.concatenate([h.item - 1 for h in histories])
        rating = np.concatenate([h.rating for h in histories]).astype(np.float64)
        if not len(item):
            return None
        starts = np.cumsum([0, *(len(h) for h in histories)])
        user = np.concatenate([h.owner() + s for h, s in zip(histories, starts[:-1], strict=True)])
        by_item = np.bincount(item, minlength=items) + ITEM_SHRINKAGE
        by_user = np.bincount(user, minlength=starts[-1]) + USER_SHRINKAGE
        mean = float(rating.mean())
        user_bias = np.zeros(starts[-1])
        for _ in range(_SWEEPS):
            item_bias = np.bincount(item, rating - mean - user_bias[user], items) / by_item
            user_bias = np.bincount(user, rating - mean - item_bias[item], starts[-1]) / by_user
        return cls(mean, item_bias)

    def predict(self, histories: Histories, owner: Ints, item: Ints) -> Floats:
        """[M] rating of item id ``item[m]`` by the user of history ``owner[m]``."""
        rated = _rated(histories)
        residual = rated.rating - self.mean - self.item[rated.item - 1]
        total = np.bincount(rated.owner(), residual, len(histories))
        user_bias = total / (rated.lengths + USER_SHRINKAGE)
        predicted: Floats = self.mean + user_bias[owner] + self.item[item - 1]
        return predicted


@dataclass(frozen=True)
class ItemRate:
    """The share of yes among the labelled training interactions of an item, shrunk towards the
    share of all items with the weight of :data:`RATE_SHRINKAGE` interactions."""

    probability: Floats
    """[items] of each id 1…items"""

    @classmethod
    def fit(
        cls, item: Ints, label: npt.NDArray[np.float32], catalogue: Catalogue, drawn: int
    ) -> ItemRate:
        """
        Args:
            item, label: [T] item id and label (1, 0, or NaN: none) of training interactions.
            catalogue: the items that are drawn from.
            drawn: number of items drawn uniformly as a no for every yes.
        """
        items = catalogue.largest
        known = ~np.isnan(label)
        yes = np.bincount(item[known] - 1, label[known], items)
        number = np.bincount(item[known] - 1, minlength=items) + drawn * yes.sum() / len(catalogue)
        rate = yes.sum() / max(number.sum(), 1)
        shrunk: Floats = (yes + RATE_SHRINKAGE * rate) / (number + RATE_SHRINKAGE)
        return cls(shrunk)


def _rated(histories: Histories) -> Histories:
    return histories.where(~np.isnan(histories.rating))


def _pieces(histories: Histories) -> Iterator[Histories]:
    """Pieces of whole histories, each with about _PAIRS pairs."""
    piece = histories.offsets[1:] // (_PAIRS // (2 * WINDOW))
    edges = np.flatnonzero(np.diff(piece, prepend=-1, append=-1))
    for a, b in pairwise(edges):
        yield histories.take(np.arange(a, b))


def _following(histories: Histories, items: int) -> csr_array:
    """[items, items] Σ 0.8^(d - 1) · [x_p = i, x_(p+d) = j]"""
    item, position = (histories.item - 1).astype(np.int32), histories.position()
    first, second, weight = [], [], []
    for distance in range(1, min(WINDOW, len(item) - 1) + 1):
        inside = position[distance:] >= distance
        first.append(item[:-distance][inside])
        second.append(item[distance:][inside])
        weight.append(np.full(len(first[-1]), DISTANCE_DECAY ** (distance - 1)))
    if not first:
        return csr_array((items, items), dtype=np.float64)
    pairs = np.concatenate(first), np.concatenate(second)
    return csr_array((np.concatenate(weight), pairs), shape=(items, items))
