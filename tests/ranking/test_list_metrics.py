"""Metrics of listed items by hand and against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p5dist.data.jagged import offsets_of
from p5dist.ranking import list_metrics
from p5dist.ranking.list_metrics import (
    ItemCounts,
    attribute_diversity,
    diversity,
    novelty,
    serendipity,
    unit_vectors,
    user_counts,
)
from tests.ranking.histories_of import histories
from tests.ranking.plain import list_means

LISTS = np.array([[3, 1, 2], [1, 4, 0], [0, 0, 0], [1, 2, 3]])


def test_means_of_listed_items_by_hand() -> None:
    found = list_means("popularity", LISTS, np.array([10, 4, 1, 0]), (1, 2, 5))
    assert found["popularity@1"].tolist() == pytest.approx([1, 10, np.nan, 10], nan_ok=True)
    assert found["popularity@2"].tolist() == pytest.approx([5.5, 5, np.nan, 7], nan_ok=True)
    assert found["popularity@5"].tolist() == pytest.approx([5, 5, np.nan, 5], nan_ok=True)


def test_novelty_by_hand() -> None:
    users = histories([[1, 1, 2], [1], [1, 3, 3], [1]])
    assert user_counts(users, 4).tolist() == [4, 1, 1, 0]
    assert novelty(user_counts(users, 4), 4).tolist() == [0, 2, 2, 2]
    sessions = replace(users, user=np.array([1, 1, 2, 2]))  # two sessions a user
    assert user_counts(sessions, 4).tolist() == [2, 1, 1, 0]


def test_diversity_by_hand() -> None:
    # Of the ids 1, 2, 3, 4 and 9: 1 and 4 are opposite, both orthogonal to 3, the vector of 2 zero.
    vectors = np.array([[2, 0], [0, 0], [0, 5], [-3, 0], [1, 1]], dtype=np.float32)
    listed = np.array([1, 2, 3, 4, 9])
    found = diversity(LISTS, listed, unit_vectors(vectors), (1, 2, 3))
    assert found["diversity@1"].tolist() == [0, 0, 0, 0]
    assert found["diversity@2"].tolist() == pytest.approx([1, 2, 0, 1])
    assert found["diversity@3"].tolist() == pytest.approx([1, 2, 0, 1])
    near = 1 - 0.5**0.5  # between 1 and 9
    lists = np.array([[9, 1, 4], [1, 9, 0]])
    found = diversity(lists, listed, unit_vectors(vectors), (2, 3, 20))
    assert found["diversity@2"].tolist() == pytest.approx([near, near])
    assert found["diversity@3"].tolist() == pytest.approx([(near + 2 + 2 - near) / 3, near])
    assert found["diversity@20"].tolist() == found["diversity@3"].tolist()


@pytest.mark.parametrize("cells", [1, 1 << 22])
def test_attribute_diversity_like_a_loop(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_metrics, "_CELLS", cells)
    rng = np.random.default_rng(cells)
    values = [[], *(rng.choice(7, rng.integers(0, 5), replace=False).tolist() for _ in range(9))]
    ids = np.stack([rng.permutation(9)[:6] + 1 for _ in range(12)])
    for row, length in enumerate(rng.integers(0, 7, 12)):
        ids[row, length:] = 0
    flat = np.array([v for one in values for v in one], dtype=np.int64)
    found = attribute_diversity(ids, offsets_of(np.array(list(map(len, values)))), flat, (2, 4, 6))
    for k in (2, 4, 6):
        for row, listed in enumerate(ids):
            items = [set(values[i]) for i in listed[:k] if i]
            pairs = [(a, b) for j, b in enumerate(items) for a in items[:j]]
            distances = [1 - len(a & b) / len(a | b) if a | b else 0.0 for a, b in pairs]
            assert found[f"diversity@{k}"][row] == pytest.approx(np.mean(distances or [0]))


def test_serendipity_by_hand() -> None:
    # Training counts 9, 4, 4, 0: places 1, 2, 2 and none, so q = 1, ¾, ¾, 0 with four items.
    count = np.array([9, 4, 4, 0])
    rank, item = np.array([1, 2, 2, 3, 1]), np.array([1, 4, 4, 2, 3])
    list_ = np.array([0, 0, 0, 5, 7])
    found = serendipity(rank, item, list_, np.array([3, 3, 1]), count, 4, (1, 2, 3))
    # Item 1 at rank 1: 1 − 1; item 4 at rank 2: ¾ − 0, once; item 2 at rank 3: ½ − ¾ < 0;
    # item 3 at rank 1: 1 − ¾ in a list of one.
    assert found["serendipity@1"].tolist() == [0, 0, 0.25]
    assert found["serendipity@2"].tolist() == [0.375, 0, 0.25]
    assert found["serendipity@3"].tolist() == [0.25, 0, 0.25]


def plain_gini(times: list[int]) -> float:
    """Half the relative mean difference, over its largest value: another formula of the index."""
    n, total = len(times), sum(times)
    difference = sum(abs(a - b) for a in times for b in times)
    return difference / (2 * n * total) * n / (n - 1)


def test_item_counts_by_hand() -> None:
    counts = ItemCounts.of(LISTS, (1, 2, 3))
    assert counts.coverage(5) == {"coverage@1": 2 / 5, "coverage@2": 4 / 5, "coverage@3": 4 / 5}
    # Listed at places up to 1: item 1 twice, item 3 once; up to 3: 3, 2, 2, 1 times.
    assert counts.gini(5)["gini@1"] == pytest.approx(plain_gini([2, 0, 1, 0, 0]))
    assert counts.gini(5)["gini@3"] == pytest.approx(plain_gini([3, 2, 2, 1, 0]))
    assert ItemCounts.of(np.array([[1, 2], [2, 1]]), (2,)).gini(2) == {"gini@2": 0}
    assert ItemCounts.of(np.array([[4], [4]]), (1,)).gini(100) == {"gini@1": 1}
    nothing = ItemCounts.of(LISTS[2:3], (1, 3))
    assert nothing.gini(5) == {"gini@1": 0, "gini@3": 0}
    assert np.isnan(nothing.means("novelty", np.ones(5))["novelty@1"])


def test_item_counts_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    ids = np.stack([rng.permutation(30)[:8] + 1 for _ in range(50)])
    for row, length in enumerate(rng.integers(0, 9, 50)):
        ids[row, length:] = 0
    value, ks = rng.random(30), (1, 4, 8)
    whole = ItemCounts.of(ids, ks)
    parts = ItemCounts.of(ids[40:], ks) + ItemCounts.of(ids[:3], ks) + ItemCounts.of(ids[3:40], ks)
    assert parts.keys.tolist() == whole.keys.tolist()
    assert parts.counts.tolist() == whole.counts.tolist()
    assert parts.means("x", value) == whole.means("x", value)  # to the last bit
    for name, mean in whole.means("x", value).items():
        assert mean == pytest.approx(np.nanmean(list_means("x", ids, value, ks)[name]))
    # Lists that are longer than the largest k.
    assert ItemCounts.of(ids, (1, 4)).gini(30)["gini@4"] == whole.gini(30)["gini@4"]


def test_no_lists() -> None:
    nothing = np.zeros((0, 3), dtype=np.int64)
    assert diversity(nothing, nothing[:, 0], np.zeros((0, 2)), (2,))["diversity@2"].shape == (0,)
    found = attribute_diversity(nothing, np.array([0, 0]), nothing[:, 0], (2,))
    assert found["diversity@2"].shape == (0,)
    assert ItemCounts.of(nothing, (1, 2)).lists.tolist() == [0, 0, 0]
