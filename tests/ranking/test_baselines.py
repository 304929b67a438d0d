"""Baselines of ratings and clicks by hand on a tiny log, and their metrics on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.data.catalogue import Catalogue
from p5dist.ranking.baselines import Biases, ItemRate
from tests.ranking.histories_of import histories


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
