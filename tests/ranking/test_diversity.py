"""Maximal marginal relevance by hand, and against a loop over single items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p5dist.data.jagged import Ints
from p5dist.ranking import diversity
from p5dist.ranking.diversity import diversified
from p5dist.ranking.topk import Lists

BY_HAND = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 5.0], [0.6, 0.8], [0.0, 0.0]])


def by_hand(ids: Ints) -> torch.Tensor:
    return BY_HAND[torch.from_numpy(ids - 1)]


def lists_of(ids: list[list[int]], scores: list[list[float]]) -> Lists:
    return Lists(np.array(ids, dtype=np.int64), np.array(scores, dtype=np.float32))


def test_by_hand() -> None:
    """Scores 4, 3, 2, 0 are scaled to 1, 0.75, 0.5, 0. With δ = 0.5 item 1 comes first (0.5). Then
    item 2 has 0.375 - 0.5 · 1, item 3 has 0.25 - 0, item 4 has 0 - 0.5 · 0.6: item 3. Then item 2
    has -0.125 as before, item 4 has 0 - 0.5 · 0.8."""
    found = diversified(lists_of([[1, 2, 3, 4]], [[4, 3, 2, 0]]), by_hand, 3, 0.5)
    assert found.ids.tolist() == [[1, 3, 2]]
    assert found.scores.tolist() == [[4, 2, 3]]
    # With δ = 0.2 item 2 has 0.6 - 0.2, item 3 has 0.4: equal, and the lower id comes first.
    tied = diversified(lists_of([[1, 2, 3, 4]], [[4, 3, 2, 0]]), by_hand, 9, 0.2)
    assert tied.ids.tolist() == [[1, 2, 3, 4]]


def test_of_equal_items_the_lower_id_comes_first() -> None:
    found = diversified(lists_of([[5, 3, 1]], [[7, 7, 7]]), by_hand, 2, 0.5)
    assert found.ids.tolist() == [[1, 3]]  # item 5 has no direction: cosine 0, as item 3


def test_short_lists_stay_short() -> None:
    lists = lists_of([[2, 1, 0], [0, 0, 0]], [[2, 1, -np.inf], [-np.inf] * 3])
    found = diversified(lists, by_hand, 3, 0.9)
    assert found.ids.tolist() == [[2, 1, 0], [0, 0, 0]]
    assert found.scores.tolist() == [[2, 1, -np.inf], [-np.inf] * 3]
    nobody = Lists(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32))
    assert diversified(nobody, by_hand, 3, 0.9).ids.shape == (0, 3)


@pytest.mark.parametrize("seed", range(6))
def test_like_a_loop_over_items(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "_TILE", 5)
    rng = np.random.default_rng(seed)
    users, candidates, k, weight = 13, 9, 6, float(rng.uniform(0.1, 0.9))
    vectors = rng.integers(-2, 3, (30, 4)).astype(np.float32)  # many equal cosines
    ids = np.array([rng.choice(30, candidates, replace=False) + 1 for _ in range(users)])
    scores = rng.integers(0, 4, (users, candidates)).astype(np.float32)
    found = diversified(
        Lists(ids, scores), lambda some: torch.from_numpy(vectors[some - 1]), k, weight
    )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    normed = (vectors / np.where(norms > 0, norms, 1)).astype(np.float64)
    for row in range(users):
        low, high = float(scores[row].min()), float(scores[row].max())
        scaled = {
            int(i): (float(s) - low) / (high - low) if high > low else 1.0
            for i, s in zip(ids[row], scores[row], strict=True)
        }
        chosen: list[int] = []
        for _ in range(k):
            value = {
                i: (1 - weight) * r
                - weight * max((normed[i - 1] @ normed[j - 1] for j in chosen), default=0.0)
                for i, r in scaled.items()
                if i not in chosen
            }
            best = max(value.values())
            chosen.append(min(i for i, v in value.items() if v > best - 1e-5))
        assert found.ids[row].tolist() == chosen
