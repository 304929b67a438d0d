"""The user's own items, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p5dist.data.catalogue import Catalogue
from p5dist.ranking.repeats import LastItem, LastOfEvent
from p5dist.ranking.topk import MISSED
from tests.ranking.histories_of import histories, items_of

NONE = np.zeros(0, dtype=np.int64)
VIEW, CART = 1, 2


def test_the_latest_item_first_then_the_order_of_ids() -> None:
    users = histories([[5, 2, 5, 3, 2], [], [6]])
    owner, target = np.array([0, 0, 0, 0, 1, 2]), np.array([2, 5, 1, 6, 3, 1])
    ranks, lists = LastItem(Catalogue(6)).rank_and_list(users, owner, target, 4, seen=None)
    assert lists.ids.tolist() == [[2, 3, 5, 1], [1, 2, 3, 4], [6, 1, 2, 3]]
    assert lists.scores.tolist() == [[5, 4, 3, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert ranks.tolist() == [1, 3, 4, 6, 3, 2]


def test_with_seen_items_masked_the_order_of_ids_is_left() -> None:
    users = histories([[5, 2, 5, 3]])
    ranks, lists = LastItem(Catalogue(6)).rank_and_list(
        users, np.array([0, 0, 0]), np.array([1, 5, 6]), 6, seen=items_of(users)
    )
    assert lists.ids.tolist() == [[1, 4, 6, 0, 0, 0]]
    assert ranks.tolist() == [1, MISSED, 3]


def test_the_last_of_one_event() -> None:
    users = replace(
        histories([[1, 2, 3, 2, 4], [5]]),
        event=np.array([CART, CART, VIEW, VIEW, CART, VIEW], dtype=np.int8),
    )
    cart = LastOfEvent(Catalogue(5), CART, "cart")
    view = LastOfEvent(Catalogue(5), VIEW, "view")
    assert cart.rank_and_list(users, NONE, NONE, 5, seen=None)[1].ids.tolist() == [
        [4, 2, 1, 3, 5], [1, 2, 3, 4, 5],
    ]  # fmt: skip
    assert view.rank_and_list(users, NONE, NONE, 3, seen=None)[1].ids.tolist() == [
        [2, 3, 1], [5, 1, 2],
    ]  # fmt: skip
    assert (cart.name, view.name, LastItem(Catalogue(5)).name) == (
        "last_cart", "last_view", "last_item",
    )  # fmt: skip
    assert "cart" in cart.fitted_on


@pytest.mark.parametrize("seed", range(3))
def test_scores_like_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = [rng.integers(1, 9, rng.integers(0, 15)).tolist() for _ in range(20)]
    expected = np.zeros((20, 8))
    for user, history in enumerate(items):
        for position, item in enumerate(history):
            expected[user, item - 1] = position + 1
    assert LastItem(Catalogue(8)).scores(histories(items)).toarray().tolist() == expected.tolist()
