"""A model, mixed with what counts of training remember of a history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.histories import Histories
from p5dist.ranking.counts import Counts, row_sums
from p5dist.ranking.interpolation import shared
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.ranking.returns import Returns


@dataclass(frozen=True)
class Mixture:
    """What is remembered of each history: some items with a probability r(item); the model divides
    the rest, p = r(item) + (1 - Σ r) · softmax(scores of the model), as kNN-LM does (Khandelwal et
    al. 2020). A model of limited width generalises; counts remember exactly.

    log p differs from the score of the model by a constant of the user, except for remembered
    items. So items are ranked by the score of the model, in which :func:`.interpolation.raised`
    replaces the scores of the remembered ones.

    Args:
        item_to_item: remembers which items follow; None: nothing of the kind.
        share: λ: of the probability that returns leave over, 0 < λ < 1, for a user with counts.
        returns: remembers how users come back to their own items; None: nothing of the kind.
    """

    item_to_item: ItemToItem | None = None
    share: float = 0.0
    returns: Returns | None = None

    def remembered(
        self, histories: Histories, counted: Counts | None = None, *, in_place: bool = True
    ) -> Counts:
        """[B, L] float32 r of item id j + 1 in column j; rows sum to less than 1.

        Args:
            counted: the scores of ``item_to_item``, where they are there already.
            in_place: they may be overwritten.
        """
        own = None if self.returns is None else self.returns.scores(histories)
        if self.item_to_item is None:
            assert own is not None
            return own
        counted = self.item_to_item.scores(histories) if counted is None else counted
        if own is None:
            return shared(counted, self.share, in_place=in_place)
        left = self.share * (1 - row_sums(own))
        following = shared(counted, left, in_place=in_place)
        if isinstance(following, np.ndarray):
            row = np.repeat(np.arange(len(following)), np.diff(own.indptr))
            following[row, own.indices] += own.data  # distinct places
            return following
        return (own + following).tocsr()
