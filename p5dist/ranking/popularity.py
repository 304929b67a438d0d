"""Popularity baselines: one order of the items for all users."""

from __future__ import annotations

import numpy as np

from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged, distinct
from p5dist.ranking.sparse import free_places
from p5dist.ranking.topk import MISSED, Lists

DAY = 24 * 3600 * c.SECOND
"""Microseconds."""


class Popularity:
    """Ranks items by their number of training interactions, for all users alike.

    Args:
        count: [largest id] training interactions of each id from 1.
        catalogue: the items that are ranked.
    """

    name = "popularity"
    fitted_on = "all training interactions"

    def __init__(self, count: Ints, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._score = np.asarray(count).astype(np.float32)
        ids = catalogue.ids
        self._best = ids[np.argsort(-self._score[ids - 1], kind="stable")]
        self._place = np.full(catalogue.largest + 1, len(ids))  # of an id without item: the end
        self._place[self._best] = np.arange(len(ids))

    def rank_and_list(
        self, histories: Histories, owner: Ints, target: Ints, k: int, *, seen: Jagged | None
    ) -> tuple[Ints, Lists]:
        """See :class:`.topk.Ranker`: places in one order for all, less the seen items
        before them."""
        rows, size = len(histories), len(self._best) + 1
        keys = np.zeros(0, dtype=np.int64)  # row and place of the distinct seen items, rising
        if seen is not None:
            keys = distinct(seen.owner() * size + self._place[seen.values])
        first = np.searchsorted(keys, np.arange(rows) * size)
        place = self._place[target]
        at = np.searchsorted(keys, owner * size + place)
        hidden = np.append(keys, -1)[at] == owner * size + place
        ranks = np.where(hidden, MISSED, 1 + place - (at - first[owner]))
        places = free_places(keys, rows, size, np.arange(k))
        ids = np.append(self._best, 0)[np.minimum(places, size - 1)]
        scores = np.append(self._score, np.float32(-np.inf))[ids - 1]
        return ranks, Lists(ids, scores)


class RecentPopularity(Popularity):
    """Ranks items by their number of training interactions in the last days of the training
    interactions (``popularity_7d`` for 7 days), for all users alike.

    Args:
        count_in_window: [largest id] such interactions of each id from 1, the sum of
            :func:`recent_counts` over all training histories.
        catalogue: the items that are ranked.
        days: length of the window.
    """

    def __init__(self, count_in_window: Ints, catalogue: Catalogue, days: int) -> None:
        super().__init__(count_in_window, catalogue)
        self.name = f"popularity_{days}d"
        self.fitted_on = f"the last {days} {'day' if days == 1 else 'days'} of training"


def recent_counts(histories: Histories, items: int, end_us: int, days: int) -> Ints:
    """[items] interactions of each id 1…items in the ``days`` · 24 hours up to ``end_us``
    (inclusive).

    Args:
        histories: training interactions.
        end_us: time of the last training interaction of all histories, microseconds.
    """
    age = end_us - histories.timestamp
    recent = (age >= 0) & (age < days * DAY)
    return np.bincount(histories.item[recent] - 1, minlength=items).astype(np.int64)
