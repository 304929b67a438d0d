"""Baselines by hand on a tiny log, and their metrics on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.ranking import baselines, topk
from p5dist.ranking.baselines import Biases, ItemRate, ItemToItem, Popularity
from p5dist.ranking.topk import Ranker, rank_and_list, top_k
from tests.ranking.histories_of import histories, items_of


def scores_of(ranker: Ranker, users: Histories) -> np.ndarray:
    return np.concatenate([scores.numpy() for _, scores in ranker.blocks(users)])


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


def test_item_to_item_by_hand() -> None:
    # The only history is 1 2 3, each item once. c(1, 2) = 1, c(1, 3) = 0.8, c(2, 3) = 1,
    # backward a quarter of it.
    fitted = ItemToItem.fit([histories([[1, 2, 3]])], Catalogue(4))
    power = 2**0.6  # (n + 1)^0.5 · (n + 1)^0.1 with n = 1
    after_one = [0, 1 / power, 0.8 / power, 0]
    after_two = [0.25 / power, 0, 1 / power, 0]
    both = [after_two[j] + 0.6 * after_one[j] for j in range(4)]
    found = scores_of(fitted, histories([[1], [2], [1, 2], [], [4]]))
    assert found == pytest.approx(np.array([after_one, after_two, both, [0] * 4, [0] * 4]))


def slow_item_to_item(train: list[list[int]], users: list[list[int]], items: int) -> np.ndarray:
    """The formula of the docstring, one pair at a time."""
    strength = np.zeros((items, items))
    count = np.zeros(items)
    for history in train:
        for p, i in enumerate(history):
            count[i - 1] += 1
            for d in range(1, 11):
                if p + d < len(history):
                    j = history[p + d]
                    strength[i - 1, j - 1] += 0.8 ** (d - 1)
                    strength[j - 1, i - 1] += 0.25 * 0.8 ** (d - 1)
    strength /= ((count + 1) ** 0.5)[:, None] * ((count + 1) ** 0.1)[None]
    scores = np.zeros((len(users), items))
    for u, history in enumerate(users):
        for age, item in enumerate(history[::-1][:10]):
            scores[u] += 0.6**age * strength[item - 1]
    return scores


@pytest.mark.parametrize("small", [False, True])
def test_item_to_item_like_the_formula(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:  # pairs are counted, and histories scored, a few at once
        monkeypatch.setattr(baselines, "_PAIRS", 300)
        monkeypatch.setattr(topk, "BLOCK", 50)
    rng = np.random.default_rng(5)
    train = [list(rng.integers(1, 13, rng.integers(0, 30))) for _ in range(25)]
    users = [list(rng.integers(1, 13, rng.integers(0, 15))) for _ in range(9)]
    fitted = ItemToItem.fit([histories(train[:10]), histories(train[10:])], Catalogue(12))
    expected = slow_item_to_item(train, users, 12)
    assert scores_of(fitted, histories(users)) == pytest.approx(expected, rel=1e-5)


def test_biases_solve_the_ridge_regression() -> None:
    """Against the normal equations of Σ (r - μ - b_u - b_i)² + 5 Σ b_u² + 3 Σ b_i²."""
    rng = np.random.default_rng(2)
    items = [list(rng.choice(6, 4, replace=False) + 1) for _ in range(8)]
    ratings = [list(rng.integers(1, 6, 4).astype(float)) for _ in range(8)]
    ratings[0][0] = np.nan  # not rated: no part of the fit
    users = histories(items, ratings)
    fitted = Biases.fit([users.take(np.arange(3)), users.take(np.arange(3, 8))], 6)
    assert fitted is not None
    rated = ~np.isnan(users.rating)
    owner, item, rating = users.owner()[rated], users.item[rated] - 1, users.rating[rated]
    design = np.zeros((rated.sum(), 14))
    design[np.arange(len(owner)), owner] = 1
    design[np.arange(len(owner)), 8 + item] = 1
    gram = design.T @ design + np.diag([5.0] * 8 + [3.0] * 6)
    bias = np.linalg.solve(gram, design.T @ (rating - rating.mean()))
    predicted = fitted.predict(users, np.array([2, 7]), np.array([1, 5]))
    expected = rating.mean() + bias[[2, 7]] + bias[[8, 12]]
    assert predicted == pytest.approx(expected, abs=1e-4)


def test_no_ratings_no_biases() -> None:
    assert Biases.fit([histories([[1, 2], [2]])], 2) is None


def test_biases_on_the_official_split(real_data: Path) -> None:
    """RMSE 0.954 on u1 of MovieLens 100K; the global mean has 1.154."""

    def read(name: str) -> np.ndarray:
        return np.loadtxt(real_data / "ml-100k" / name, dtype=np.int64)

    train, test = read("u1.base"), read("u1.test")
    train = train[np.argsort(train[:, 0], kind="stable")]
    ends = np.searchsorted(train[:, 0], np.arange(1, 944))
    users = histories(
        [x.tolist() for x in np.split(train[:, 1], ends[1:])],
        [x.tolist() for x in np.split(train[:, 2].astype(float), ends[1:])],
    )
    fitted = Biases.fit([users], 1682)
    assert fitted is not None
    predicted = fitted.predict(users, test[:, 0] - 1, test[:, 1]).clip(1, 5)
    assert np.sqrt(((predicted - test[:, 2]) ** 2).mean()) == pytest.approx(0.954, abs=0.001)


def test_item_rate_by_hand() -> None:
    item = np.array([1, 1, 1, 2, 2, 3])
    label = np.array([1, 1, 0, 0, np.nan, 1], dtype=np.float32)
    rate = 3 / 5
    expected = [(2 + 10 * rate) / 13, 10 * rate / 11, (1 + 10 * rate) / 11, rate]
    assert ItemRate.fit(item, label, Catalogue(4), 0).probability == pytest.approx(expected)
    # Two no drawn beside each of the four yes: two for each of the four items.
    label = np.array([1, 1, np.nan, 1, np.nan, 1], dtype=np.float32)
    rate = 4 / 12
    expected = [(n + 10 * rate) / (n + 2 + 10) for n in (2, 1, 1, 0)]
    assert ItemRate.fit(item, label, Catalogue(4), 2).probability == pytest.approx(expected)
