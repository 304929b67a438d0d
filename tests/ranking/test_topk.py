"""Exact ranking against a plain sort of every list."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.errors import TrainingError
from p5dist.ranking import topk
from p5dist.ranking.topk import MISSED, VectorRanker, rank_and_list, rank_of, top_k
from tests.ranking.histories_of import histories, items_of


class Fixed:
    """Ranks by a given [B, items] array, ``step`` histories at once.

    Args:
        absent: rising ids that no item has.
    """

    name = "fixed"

    def __init__(self, scores: np.ndarray, step: int = 3, absent: tuple[int, ...] = ()) -> None:
        self.all, self.step = scores.astype(np.float32), step
        self.catalogue = Catalogue(scores.shape[1], np.asarray(absent, np.int64))

    def blocks(self, histories: Histories) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, len(self.all), self.step):
            rows = slice(start, min(start + self.step, len(self.all)))
            yield rows, torch.from_numpy(self.all[rows].copy())


def sorted_ids(scores: np.ndarray, hidden: set[int]) -> list[int]:
    """Ids from the best to the worst without the hidden ones, by a plain sort."""
    ids = [i for i in range(1, len(scores) + 1) if i not in hidden]
    return sorted(ids, key=lambda i: (-scores[i - 1], i))


def random_case(seed: int) -> tuple[np.ndarray, list[list[int]], list[list[int]]]:
    """Scores with many ties, jagged seen items and 0 to 4 targets for each of 20 users."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (20, 30)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] *= -0.0
    seen = [list(rng.integers(1, 31, rng.integers(0, 25))) for _ in range(20)]
    targets = [list(rng.choice(30, rng.integers(0, 5), replace=False) + 1) for _ in range(20)]
    return scores, seen, targets


@pytest.mark.parametrize("step", [1, 3, 20])
@pytest.mark.parametrize("mask_seen", [True, False])
def test_like_a_plain_sort(step: int, mask_seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK", 64)
    scores, seen, targets = random_case(step)
    owner = np.repeat(np.arange(20), [len(t) for t in targets])
    flat = np.concatenate(targets).astype(np.int64)
    users = histories(seen)
    ranks, lists = rank_and_list(
        Fixed(scores, step), users, owner, flat, 7, seen=items_of(users) if mask_seen else None
    )
    expected_ranks, expected_lists = [], []
    for user in range(20):
        hidden = set(seen[user]) if mask_seen else set()
        for target in targets[user]:
            ids = sorted_ids(scores[user], hidden)
            expected_ranks.append(MISSED if target in hidden else ids.index(target) + 1)
        best = sorted_ids(scores[user], hidden)[:7]
        expected_lists.append(best + [0] * (7 - len(best)))
    assert ranks.tolist() == expected_ranks
    assert lists.ids.tolist() == expected_lists
    listed = lists.ids > 0
    rows, places = np.nonzero(listed)
    assert (lists.scores[listed] == scores[rows, lists.ids[rows, places] - 1]).all()
    assert (lists.scores[~listed] == -np.inf).all()


def test_a_seen_target_is_masked_like_any_seen_item() -> None:
    """It would be the only seen item of the list, which gives it away."""
    scores = np.array([[4.0, 3.0, 2.0, 5.0]])
    users = histories([[1, 2]])
    target = np.array([2])
    ranks = rank_of(Fixed(scores), users, np.array([0]), target, seen=items_of(users))
    assert ranks.tolist() == [MISSED]
    assert rank_of(Fixed(scores), users, np.array([0]), target, seen=None).tolist() == [3]
    lists = top_k(Fixed(scores), users, 4, seen=items_of(users))
    assert lists.ids.tolist() == [[4, 3, 0, 0]]


def test_k_above_the_catalogue_lists_everything() -> None:
    lists = top_k(Fixed(np.array([[1.0, 2.0]])), histories([[1]]), 10, seen=None)
    assert lists.ids.tolist() == [[2, 1]]


def test_nan_is_an_error() -> None:
    with pytest.raises(TrainingError, match="fixed"):
        top_k(Fixed(np.array([[1.0, np.nan]])), histories([[1]]), 1, seen=None)


def test_ids_that_no_item_has_are_not_ranked() -> None:
    scores = np.array([[5.0, 1.0, 9.0, 1.0, 7.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    fixed = Fixed(scores, absent=(3, 5))
    users, owner = histories([[4], [4]]), np.array([0, 0, 1])
    ranks, lists = rank_and_list(fixed, users, owner, np.array([2, 4, 4]), 10, seen=None)
    assert ranks.tolist() == [2, 3, 3]
    assert lists.ids.tolist() == [[1, 2, 4], [1, 2, 4]]
    seen = top_k(fixed, users, 10, seen=items_of(users))
    assert seen.ids.tolist() == [[1, 2, 0], [1, 2, 0]]


def test_vectors_rank_by_inner_products(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(1)

    class Model:
        catalogue = Catalogue(50)

        def item_vectors(self) -> torch.Tensor:
            return torch.randn(50, 4, generator=torch.Generator().manual_seed(2))

        def user_vectors(self, histories: Histories) -> torch.Tensor:
            return torch.randn(len(histories), 4, generator=rng.manual_seed(1))

    users = histories([[1]] * 9)
    scores = Model().user_vectors(users) @ Model().item_vectors().T
    whole = top_k(VectorRanker(Model()), users, 5, seen=None)
    monkeypatch.setattr(topk, "BLOCK", 120)
    parts = top_k(VectorRanker(Model()), users, 5, seen=None)
    for lists in (whole, parts):
        assert lists.ids.tolist() == [sorted_ids(s, set())[:5] for s in scores.numpy()]
