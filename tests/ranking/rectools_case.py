"""A case by chance for the comparison with RecTools; needs NumPy only, so that it can be made in an
environment of RecTools."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KS = (1, 3, 10)
USERS, ITEMS, LISTED = 40, 60, 10
MISSED = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Case:
    """Users 0…39, item ids 1…60; items 51…60 have no training interaction."""

    train: list[list[int]]
    """By user, with repeats; user 0 has had all but four items."""
    targets: list[list[int]]
    """By user 1 to 6 targets, with repeats and seen items."""
    order: list[list[int]]
    """By user all items that are not seen, the best first."""
    vectors: np.ndarray
    """[60, 5]; that of id 7 is zero"""
    values: list[list[int]]
    """By item 0 to 4 values of an attribute."""

    def rank(self, user: int, item: int) -> int:
        """From 1; MISSED for a seen item."""
        order = self.order[user]
        return order.index(item) + 1 if item in order else MISSED


def make() -> Case:
    """The same case with every version of NumPy: the stream of RandomState is frozen."""
    rng = np.random.RandomState(17)
    share = 1.0 / np.arange(1, 51)
    train = [
        (rng.choice(50, rng.randint(3, 25), p=share / share.sum()) + 1).tolist()
        for _ in range(USERS)
    ]
    train[0] = rng.permutation(np.setdiff1d(np.arange(1, ITEMS + 1), [2, 9, 30, 55])).tolist()
    # Items 51…60 are cold for all others: user 0 had them, but not in training.
    had = [set(items) for items in train]
    train[0] = [item for item in train[0] if item <= 50]
    order = [[i for i in (rng.permutation(ITEMS) + 1).tolist() if i not in seen] for seen in had]
    targets = []
    for user in range(USERS):
        near = order[user][:12] + train[user][:3]
        targets.append(rng.choice(near, rng.randint(1, 7)).tolist())
    vectors = rng.randn(ITEMS, 5)
    vectors[6] = 0
    values = [rng.choice(8, rng.randint(0, 5), replace=False).tolist() for _ in range(ITEMS)]
    return Case(train, targets, order, vectors, values)
