"""Popularity by hand and against the ranking by scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p5dist.data.catalogue import Catalogue
from p5dist.ranking.popularity import DAY, Popularity, RecentPopularity, recent_counts
from tests.ranking.histories_of import histories, items_of
from tests.ranking.plain import rank_plainly

NONE = np.zeros(0, dtype=np.int64)


def test_popularity() -> None:
    users = histories([[2], []])
    popularity = Popularity(np.array([5, 7, 7, 0]), Catalogue(4))
    _, lists = popularity.rank_and_list(users, NONE, NONE, 3, seen=items_of(users))
    assert lists.ids.tolist() == [[3, 1, 4], [2, 3, 1]]


@pytest.mark.parametrize("mask", [True, False])
def test_popularity_needs_no_scores_of_the_catalogue(mask: bool) -> None:
    """As ranks and lists from the scores; counts with many ties, ids that no item has."""
    rng = np.random.default_rng(int(mask))
    count = rng.integers(0, 5, 30)
    ranker = Popularity(count, Catalogue(30, np.array([4, 17, 30])))
    scores = np.tile(count, (40, 1))
    users = histories([list(rng.integers(1, 31, rng.integers(0, 60))) for _ in range(40)])
    targets = [rng.integers(1, 4, rng.integers(0, 4)) for _ in range(40)]
    owner, target = np.repeat(np.arange(40), list(map(len, targets))), np.concatenate(targets)
    seen = items_of(users) if mask else None
    for k in (1, 7, 27):
        ranks, lists = ranker.rank_and_list(users, owner, target, k, seen=seen)
        expected_ranks, expected = rank_plainly(
            scores, ranker.catalogue, owner, target, k, seen=seen
        )
        assert ranks.tolist() == expected_ranks.tolist()
        assert lists.ids.tolist() == expected.ids.tolist()
        assert lists.scores.tolist() == expected.scores.tolist()


def test_recent_popularity_by_hand() -> None:
    """The window of 7 days begins right after the moment 7 · 24 hours before the last one."""
    users = histories([[1, 1, 2, 3], [3, 2, 4]])
    end = 30 * DAY
    ages = [20 * DAY, 7 * DAY, 7 * DAY - 1, 0, 8 * DAY, 1, DAY]
    users = replace(users, timestamp=end - np.array(ages))
    assert recent_counts(users, 5, end, 7).tolist() == [0, 2, 1, 1, 0]
    parts = [users.between(0, 1), users.between(1, 2)]
    assert sum(recent_counts(p, 5, end, 7) for p in parts).tolist() == [0, 2, 1, 1, 0]
    ranker = RecentPopularity(recent_counts(users, 5, end, 7), Catalogue(5), 7)
    _, lists = ranker.rank_and_list(users, NONE, NONE, 5, seen=None)
    assert lists.ids[0].tolist() == [2, 3, 4, 1, 5]
    assert (ranker.name, Popularity.name) == ("popularity_7d", "popularity")
    assert ranker.fitted_on == "the last 7 days of training"
