"""Explanations of a hand-made model against plain loops, and their fidelity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.inference.explain import MOST, Explainer
from p5dist.inference.fidelity import fidelity, fidelity_of
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.ranking.mixture import Mixture
from p5dist.ranking.products import HeldItems
from tests.data.test_histories import histories
from tests.ranking.plain import whole

ITEMS, DIM = 12, 5
CATALOGUE = Catalogue(ITEMS, np.asarray([9]))  # there is no item 9


class Summing:
    """The vector of a user is the sum of the vectors of the history's items."""

    catalogue = CATALOGUE

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(ITEMS + 1, DIM, generator=generator)
        self.outputs = torch.randn(ITEMS, DIM, generator=generator)

    def items(self, held: int = 0) -> HeldItems:
        return HeldItems(self.outputs, self.catalogue)

    def item_vectors(self, ids: Ints | None = None) -> torch.Tensor:
        return self.outputs if ids is None else self.outputs[torch.from_numpy(ids - 1)]

    def user_vectors(self, given: Histories) -> torch.Tensor:
        found = torch.zeros(len(given), DIM)
        rows = torch.from_numpy(given.owner())
        return found.index_add(0, rows, self.inputs[torch.from_numpy(given.item)])


def log_p(model: Summing, items: list[int], wanted: int, counts: Any, share: float) -> float:
    """By the formula, for one history."""
    user = sum((model.inputs[i] for i in items), torch.zeros(DIM))
    scores = {int(i): float(user @ model.outputs[i - 1]) for i in CATALOGUE.ids}
    softmax = math.exp(scores[wanted]) / sum(map(math.exp, scores.values()))
    if counts is None:
        return math.log(softmax)
    row = whole(counts.scores(histories([items])))[0]
    if not row.sum():
        return math.log(softmax)
    return math.log((1 - share) * softmax + share * row[wanted - 1] / row.sum())


@pytest.mark.parametrize("mixed", [False, True])
def test_shares_are_those_worked_out_by_hand(mixed: bool) -> None:
    lists = [[1, 4, 2, 7], [3, 3], [5], []]
    given, model = histories(lists), Summing()
    wanted = np.asarray([[8, 2, 12], [1, 5, 0], [10, 11, 6], [1, 2, 3]])
    counts = ItemToItem.fit([histories([[1, 4, 8], [7, 2, 12, 4], [3, 1]])], CATALOGUE)
    mixture = Mixture(counts, 0.4) if mixed else None
    found = Explainer(model, mixture)(given, wanted)
    at = 0
    for row, own in enumerate(lists):
        for column, item in enumerate(wanted[row].tolist()):
            got = found.share[at : at + len(own), column]
            if not item:
                assert not got.any()
                continue
            known = counts if mixed else None
            whole = log_p(model, own, item, known, 0.4)
            falls = [
                max(whole - log_p(model, own[:j] + own[j + 1 :], item, known, 0.4), 0.0)
                for j in range(len(own))
            ]
            expected = [fall / (sum(falls) or 1.0) for fall in falls]
            assert got.tolist() == pytest.approx(expected, abs=1e-4)
        at += len(own)
    assert mixed == bool(found.counted.any())
    index, share = found.top(given, 2)
    assert index.shape == (4, 3, 2) and (index[3] == -1).all() and (index[2, :, 1] == -1).all()
    for row, column in ((0, 0), (0, 2), (1, 1)):
        own = found.share[given.offsets[row] : given.offsets[row + 1], column]
        best = sorted((s for s in own.tolist() if s > 0), reverse=True)[:2]
        assert share[row, column][: len(best)].tolist() == pytest.approx(best)
        assert (index[row, column] >= 0).sum() == len(best)


def test_the_parts_of_a_long_history_add_up_too() -> None:
    rng = np.random.default_rng(0)
    items = rng.choice(CATALOGUE.ids, 400).tolist()
    given, model = histories([items, [1, 2]]), Summing()
    model.inputs *= 0.02
    share = Explainer(model, None)(given, np.asarray([[4], [5]])).share[:400, 0]
    assert share.sum() == pytest.approx(1.0)
    assert MOST == 100
    blocks = share[:320].reshape(20, 16)
    assert (blocks == blocks[:, :1]).all(), "interactions of a block share what it was worth"
    assert (share > 0).any(), "some interaction brings the item about"


def test_named_interactions_cost_more_than_random_ones() -> None:
    """One interaction of each history brings the item about; the explainer must name it."""
    model = Summing()
    model.inputs[:], model.outputs[:] = 0.0, 0.0
    model.inputs[7, 0], model.outputs[3, 0] = 3.0, 2.0  # item 7 leads to item 4
    rng = np.random.default_rng(1)
    others = [i for i in CATALOGUE.ids.tolist() if i not in (4, 7)]
    lists = [[*rng.choice(others, 6).tolist(), 7] for _ in range(200)]
    given = histories([rng.permutation(own).tolist() for own in lists])
    explainer = Explainer(model, None)

    def listed(kept: Histories, of: Ints, items: Ints) -> np.ndarray:
        there = np.bincount(kept.owner(), kept.item == 7, len(kept))
        return np.minimum(there, 1.0)

    found = fidelity_of(
        fidelity(explainer, given, np.full((200, 1), 4), listed, most=1, seed=3).sums()
    )
    fall = log_p(model, [7], 4, None, 0) - log_p(model, [], 4, None, 0)
    assert found["histories"] == 200
    assert found["fall_of_log_p_named"] == pytest.approx(fall, rel=1e-5)
    assert found["fall_of_log_p_random"] == pytest.approx(fall / 7, rel=0.4)
    assert found["margin"]["low"] > 0.5 * fall
    assert found["control"]["low"] < 0 < found["control"]["high"]
    assert found["still_listed_named"] == 0 and found["still_listed_random"] > 0.7
    one = fidelity_of(fidelity(explainer, given.take(np.array([0])), np.full((1, 1), 4), listed,
                               most=1, seed=3).sums())  # fmt: skip
    assert one["margin"] == {"value": pytest.approx(fall), "low": None, "high": None}
