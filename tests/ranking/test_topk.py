"""Running lists and the count of items before a target, from blocks of scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p5dist.data.catalogue import Catalogue
from p5dist.ranking.topk import RunningLists, before, best_of_chunks
from tests.ranking.plain import rank_plainly


def room(scores: np.ndarray) -> np.ndarray:
    return np.empty(scores.shape, dtype=np.bool_)


@pytest.mark.parametrize("size", [1, 4, 16, 64])
@pytest.mark.parametrize("k", [1, 5, 40, 100])
@pytest.mark.parametrize("kinds", [3, 1000])
def test_lists_like_a_plain_sort(size: int, k: int, kinds: int) -> None:
    """Many equal scores or few, zeros of both signs, and ids that cannot be listed."""
    rng = np.random.default_rng(size + k)
    scores = rng.integers(-kinds, kinds + 1, (9, 64)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] *= -0.0
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    running = RunningLists(9, k)
    for begin in range(0, 64, size):
        block = scores[:, begin : begin + size].copy()
        running.add(torch.from_numpy(block), begin + 1)
    none = np.zeros(0, dtype=np.int64)
    _, expected = rank_plainly(scores, Catalogue(64), none, none, k)
    lists = running.lists()
    assert lists.ids.shape == (9, k)
    listed = expected.scores > -np.inf
    width = listed.shape[1]
    assert lists.ids[:, :width].tolist() == np.where(listed, expected.ids, 0).tolist()
    assert (lists.scores[:, :width] == expected.scores).all()
    assert not lists.ids[:, width:].any()
    assert (lists.scores[:, width:] == -np.inf).all()


@pytest.mark.parametrize("columns", [3, 64, 700])
@pytest.mark.parametrize("kinds", [2, 1000])
def test_the_lists_of_a_gpu_are_those_of_a_plain_sort(columns: int, kinds: int) -> None:
    rng = np.random.default_rng(columns + kinds)
    scores = rng.integers(-kinds, kinds + 1, (9, columns)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] *= -0.0
    none = np.zeros(0, dtype=np.int64)
    _, expected = rank_plainly(scores, Catalogue(columns), none, none, 3)
    values, index = best_of_chunks(torch.from_numpy(scores), 3)
    assert (index + 1).tolist() == expected.ids.tolist()
    assert values.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("on_host", [True, False])
def test_items_before_a_target(on_host: bool) -> None:
    """The target 5 is at index 2 of the first block; before it are 7, and the equal one at 0."""
    scores = torch.tensor([[5.0, 7.0, 5.0, 5.0, 1.0]])
    row, wanted = np.zeros(3, dtype=np.int64), torch.full((3,), 5.0)
    mask = np.empty((1, 5), dtype=np.bool_) if on_host else None
    inside, later, earlier = before(scores, row, np.array([2, 9, -3]), wanted, mask)
    assert inside == 2
    assert later == 4  # a target with a higher id: all equal ones come first
    assert earlier == 1  # with a lower id: none of them


@pytest.mark.parametrize("on_host", [True, False])
def test_many_targets_of_some_users(on_host: bool) -> None:
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 6, (4, 30)).astype(np.float32)
    row = np.sort(rng.integers(0, 4, 50))
    index = rng.integers(0, 30, 50)
    wanted = torch.from_numpy(scores[row, index])
    mask = room(scores) if on_host else None
    found = before(torch.from_numpy(scores), row, index, wanted, mask)
    expected, _ = rank_plainly(scores, Catalogue(30), row, index + 1, 1)
    assert (found + 1).tolist() == expected.tolist()
