"""Popularity by hand and against the ranking by scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p5dist.data.catalogue import Catalogue
from p5dist.ranking.popularity import DAY, Popularity, RecentPopularity, recent_counts
from p5dist.ranking.topk import rank_and_list, top_k
from tests.ranking.histories_of import histories, items_of


def test_popularity() -> None:
    users = histories([[2], []])
    lists = top_k(Popularity(np.array([5, 7, 7, 0]), Catalogue(4)), users, 3, seen=items_of(users))
    assert lists.ids.tolist() == [[3, 1, 4], [2, 3, 1]]


@pytest.mark.parametrize("mask", [True, False])
def test_popularity_needs_no_scores_of_the_catalogue(mask: bool) -> None:
    """As ranks and lists from the scores; counts with many ties, ids that no item has."""
    rng = np.random.default_rng(int(mask))
    ranker = Popularity(rng.integers(0, 5, 30), Catalogue(30, np.array([4, 17, 30])))

    class FromScores:
        name, catalogue, blocks = ranker.name, ranker.catalogue, ranker.blocks

    users = histories([list(rng.integers(1, 31, rng.integers(0, 60))) for _ in range(40)])
    targets = [rng.integers(1, 4, rng.integers(0, 4)) for _ in range(40)]
    owner, target = np.repeat(np.arange(40), list(map(len, targets))), np.concatenate(targets)
    seen = items_of(users) if mask else None
    for k in (1, 7, 30):
        ranks, lists = rank_and_list(ranker, users, owner, target, k, seen=seen)
        expected_ranks, expected = rank_and_list(FromScores(), users, owner, target, k, seen=seen)
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
    assert top_k(ranker, users, 5, seen=None).ids[0].tolist() == [2, 3, 4, 1, 5]
    assert (ranker.name, Popularity.name) == ("popularity_7d", "popularity")
    assert ranker.fitted_on == "the last 7 days of training"
