"""Baselines of the tasks: the global mean and biases for ratings, click rates of items for clicks.
All are fitted on training interactions only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints

USER_SHRINKAGE, ITEM_SHRINKAGE = 5.0, 3.0
RATE_SHRINKAGE = 10.0
_SWEEPS = 10


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
    count: Ints
    """[items] n_i"""

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
        return cls(mean, item_bias, np.bincount(item, minlength=items))

    def predict(self, histories: Histories, owner: Ints, item: Ints) -> Floats:
        """[M] rating of item id ``item[m]`` by the user of history ``owner[m]``."""
        rated = _rated(histories)
        residual = rated.rating - self.mean - self.item[rated.item - 1]
        total = np.bincount(rated.owner(), residual, len(histories))
        user_bias = total / (rated.lengths + USER_SHRINKAGE)
        predicted: Floats = self.mean + user_bias[owner] + self.item[item - 1]
        return predicted

    def of_training(self, histories: Histories, at: Ints, target: Ints) -> Floats:
        """[M] the ratings of interactions that the biases were fitted on, as if they had not been:
        the user's bias is that of the history up to ``at``, and the target is taken out of the bias
        of its item, b_i' = ((3 + n_i) · b_i - (r - μ - b_u)) / (3 + n_i - 1).

        Args:
            histories: [B] with T interactions.
            at: [M] the last interaction that is known before the target.
            target: [M] an interaction of the same history, with a rating.
        """
        rated = ~np.isnan(histories.rating)
        residual = np.where(rated, histories.rating - self.mean - self.item[histories.item - 1], 0)
        first = histories.offsets[:-1][histories.owner()[at]]
        sums, counts = (np.append(0, np.cumsum(values)) for values in (residual, rated))
        user_bias = (sums[at + 1] - sums[first]) / (counts[at + 1] - counts[first] + USER_SHRINKAGE)
        item = histories.item[target] - 1
        number = self.count[item] + ITEM_SHRINKAGE
        own = histories.rating[target] - self.mean - user_bias
        without = (number * self.item[item] - own) / (number - 1)
        item_bias = np.where(self.count[item] > 0, without, self.item[item])
        predicted: Floats = self.mean + user_bias + item_bias
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
