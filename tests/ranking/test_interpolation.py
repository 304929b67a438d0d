"""The interpolation of a model and counts, computed by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.ranking import topk
from p5dist.ranking.interpolation import Mixture
from p5dist.ranking.topk import row_blocks, top_k
from tests.ranking.histories_of import histories


class Scores:
    """The scores of a history are the row of a table that its first item names."""

    name = "model"

    def __init__(self, table: list[list[float]], absent: tuple[int, ...] = ()) -> None:
        self.table = torch.tensor(table)
        self.catalogue = Catalogue(self.table.shape[1], np.asarray(absent, np.int64))

    def blocks(self, users: Histories) -> Iterator[tuple[slice, Tensor]]:
        rows = self.table[torch.from_numpy(users.item[users.offsets[:-1]] - 1)]
        for part in row_blocks(len(rows), self.catalogue.largest):
            yield part, rows[part].clone()


def mixed(share: float, users: list[list[int]]) -> np.ndarray:
    model = Scores([[0.0, np.log(2.0), np.log(5.0)], [3.0, 3.0, 3.0], [0.0, 0.0, 200.0]])
    counts = Scores([[3.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 3.0, 0.0]])
    parts = Mixture(model, counts, share).blocks(histories(users))
    return np.concatenate([scores.numpy() for _, scores in parts])


@pytest.mark.parametrize("small", [False, True])
def test_probabilities(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:  # a history at a time
        monkeypatch.setattr(topk, "BLOCK", 3)
    # Softmax of the first row: 1/8, 2/8, 5/8; counts 3/4, 0, 1/4.
    first = [0.6 * 1 / 8 + 0.4 * 3 / 4, 0.6 * 2 / 8, 0.6 * 5 / 8 + 0.4 * 1 / 4]
    third = [1 / 3] * 3  # the counts know nothing: the model alone
    found = np.exp(mixed(0.4, [[1], [2], [1, 3]]))
    assert found == pytest.approx(np.array([first, third, first]), rel=1e-5)


def test_ids_that_no_item_has_have_no_probability() -> None:
    # Without item 3 the softmax of the model is 1/3, 2/3; the counts are 3/4 and 1/4.
    model = Scores([[0.0, np.log(2.0), 9.0], [0.0, 0.0, 9.0]], absent=(3,))
    counts = Scores([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    ((_, scores),) = Mixture(model, counts, 0.4).blocks(histories([[1], [2]]))
    first = [0.6 / 3 + 0.4 * 3 / 4, 0.6 * 2 / 3 + 0.4 / 4, 0.0]
    assert np.exp(scores.numpy()) == pytest.approx(np.array([first, [0.5, 0.5, 0.0]]))


def test_what_the_model_finds_impossible_keeps_its_order() -> None:
    # exp(-200) is no float32, but item 1 is worse than item 2 by the counts' 1/4 against 3/4.
    scores = mixed(0.5, [[3]])
    assert np.isfinite(scores).all()
    assert np.exp(scores[0]) == pytest.approx([0.125, 0.375, 0.5])


def test_ranks_by_both() -> None:
    lists = {
        share: top_k(
            Mixture(Scores([[0.0, 0.7, 1.6]]), Scores([[3.0, 0.0, 1.0]]), share),
            histories([[1], [1, 2]]), 3, seen=None,
        ).ids.tolist()
        for share in (0.01, 0.9)
    }  # fmt: skip
    assert lists == {0.01: [[3, 2, 1]] * 2, 0.9: [[1, 3, 2]] * 2}
