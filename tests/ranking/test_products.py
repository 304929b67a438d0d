"""Ranking by products against a plain sort, and the interpolation with counts by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Jagged, offsets_of
from p5dist.errors import TrainingError
from p5dist.ranking import products
from p5dist.ranking.interpolation import shared
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.tiles import Query
from p5dist.ranking.topk import MISSED
from tests.ranking.plain import rank_plainly

NONE = np.zeros(0, dtype=np.int64)


class Cut(HeldItems):
    """Vectors in blocks of ``size`` items."""

    def __init__(self, vectors: Tensor, catalogue: Catalogue, size: int) -> None:
        super().__init__(vectors, catalogue)
        self.size = size

    def __len__(self) -> int:
        return -(-len(self.vectors) // self.size)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for begin in range(0, len(self.vectors), self.size):
            yield begin + 1, self.vectors[begin : begin + self.size]


class Case:
    """Whole scores with many ties, jagged seen items, 0 to many targets for each user, counts, ids
    that no item has."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        users, items = int(rng.integers(1, 40)), int(rng.integers(5, 60))
        self.users, self.vectors = (
            torch.from_numpy(rng.integers(-2, 3, (n, 3)).astype(np.float32)) for n in (users, items)
        )
        absent = rng.choice(np.arange(1, items + 1), rng.integers(0, 3), replace=False)
        self.catalogue = Catalogue(items, np.sort(absent))
        lengths = rng.integers(0, items, users)
        self.seen: Jagged | None = None
        if seed % 3:
            self.seen = Jagged(offsets_of(lengths), rng.integers(1, items + 1, lengths.sum()))
        self.owner = np.sort(rng.integers(0, users, rng.integers(0, 60)))
        self.target = rng.choice(self.catalogue.ids, len(self.owner))
        counts = rng.integers(0, 3, (users, items)) * (rng.random((users, items)) < 0.3)
        counts[:, absent - 1] = 0
        self.counts = counts.astype(np.float32)
        self.k = int(rng.integers(1, items + 5))

    @property
    def scores(self) -> np.ndarray:
        return (self.users @ self.vectors.T).numpy()

    def query(self) -> Query:
        counted = shared(csr_array(self.counts), 0.4)
        return Query(self.users, self.owner, self.target, self.seen, counted)


@pytest.mark.parametrize("size", [1, 7, 20, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_like_a_plain_sort(seed: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(products.TILE, "cpu", [256, 5][seed % 2])
    case = Case(seed)
    cut = Cut(case.vectors, case.catalogue, size)
    ((found,),) = rank_products([case.query()], cut, case.k)
    expected = rank_plainly(
        case.scores, case.catalogue, case.owner, case.target, case.k, seen=case.seen
    )
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].ids.tolist() == expected[1].ids.tolist()
    assert found[1].scores.tolist() == expected[1].scores.tolist()


@pytest.mark.parametrize("seed", range(12))
def test_blocks_tiles_and_queries_change_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model alone and mixture, from one block as from many, with several queries in one pass."""
    case = Case(seed)
    results = []
    for size, tile in ((1000, 256), (1, 256), (6, 4)):
        monkeypatch.setitem(products.TILE, "cpu", tile)
        cut = Cut(case.vectors, case.catalogue, size)
        queries = [
            case.query(),
            Query(case.users[:0], NONE, NONE, None, shared(csr_array(case.counts[:0]), 0.4)),
        ]
        found, empty = rank_products(queries, cut, case.k, mixture=True)
        assert [len(ranks) for ranks, _ in empty] == [0, 0]
        results.append([(r.tolist(), one.ids.tolist(), one.scores) for r, one in found])
    for other in results[1:]:
        for (ranks, ids, scores), (ranks_2, ids_2, scores_2) in zip(results[0], other, strict=True):
            assert (ranks, ids) == (ranks_2, ids_2)
            np.testing.assert_allclose(scores, scores_2, rtol=1e-5)


def probabilities(share: float, scores: np.ndarray, counts: list[list[float]]) -> np.ndarray:
    """[B, L] exp of the scores of the mixture, by id."""
    users = torch.eye(len(scores))
    items = HeldItems(
        torch.from_numpy(scores.T.astype(np.float32).copy()), Catalogue(scores.shape[1])
    )
    remembered = shared(csr_array(np.array(counts, dtype=np.float32)), share)
    query = Query(users, NONE, NONE, None, remembered)
    (((_, lists),),) = rank_products([query], items, scores.shape[1], mixture=True, alone=False)
    order = np.argsort(lists.ids, axis=1)
    found: np.ndarray = np.exp(np.take_along_axis(lists.scores, order, 1))
    return found


def test_probabilities_of_the_mixture() -> None:
    # Softmax of the first row: 1/8, 2/8, 5/8; counts 3/4, 0, 1/4.
    scores = np.array([[0.0, np.log(2.0), np.log(5.0)], [3.0, 3.0, 3.0]])
    found = probabilities(0.4, scores, [[3.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    first = [0.6 * 1 / 8 + 0.4 * 3 / 4, 0.6 * 2 / 8, 0.6 * 5 / 8 + 0.4 * 1 / 4]
    third = [1 / 3] * 3  # the counts know nothing: the model alone
    assert found == pytest.approx(np.array([first, third]), rel=1e-5)


def test_what_the_model_finds_impossible_keeps_its_order() -> None:
    # exp(-200) is no float32, but item 1 is worse than item 2 by the counts' 1/4 against 3/4.
    found = probabilities(0.5, np.array([[0.0, 0.0, 200.0]]), [[1.0, 3.0, 0.0]])
    assert found[0] == pytest.approx([0.125, 0.375, 0.5], rel=1e-4)


def test_ids_that_no_item_has_have_no_probability() -> None:
    # Without item 3 the softmax of the model is 1/3, 2/3; the counts are 3/4 and 1/4.
    vectors = torch.tensor([[0.0], [np.log(2.0)], [9.0]]).float()
    items = HeldItems(vectors, Catalogue(3, np.array([3])))
    remembered = shared(csr_array(np.array([[3.0, 1, 0]])), 0.4)
    query = Query(torch.ones(1, 1), NONE, NONE, None, remembered)
    (((_, lists),),) = rank_products([query], items, 3, mixture=True, alone=False)
    assert lists.ids.tolist() == [[1, 2]]
    assert np.exp(lists.scores[0]) == pytest.approx([0.6 / 3 + 0.4 * 3 / 4, 0.6 * 2 / 3 + 0.1])


def test_ranks_by_both() -> None:
    items = HeldItems(torch.tensor([[0.0], [0.7], [1.6]]), Catalogue(3))
    for share, expected in {0.01: [3, 2, 1], 0.9: [1, 3, 2]}.items():
        remembered = shared(csr_array(np.array([[3.0, 0.0, 1.0]])), share)
        query = Query(torch.ones(1, 1), NONE, NONE, None, remembered)
        (((_, lists),),) = rank_products([query], items, 3, mixture=True, alone=False)
        assert lists.ids.tolist() == [expected]


def test_a_seen_target_is_hidden_like_any_seen_item() -> None:
    """It would be the only seen item of the list, which gives it away."""
    items = HeldItems(torch.tensor([[4.0], [3.0], [2.0], [5.0]]), Catalogue(4))
    seen, first = Jagged(np.array([0, 2]), np.array([1, 2])), np.array([0])
    for hidden, rank, best in ((seen, MISSED, [4, 3, 0, 0]), (None, 3, [4, 1, 2, 3])):
        query = Query(torch.ones(1, 1), first, np.array([2]), hidden)
        (((ranks, lists),),) = rank_products([query], items, 4)
        assert ranks.tolist() == [rank]
        assert lists.ids.tolist() == [best]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("of", ["users", "items"])
def test_vectors_that_are_not_numbers(of: str, value: float) -> None:
    users, vectors = torch.ones(2, 3), torch.ones(4, 3)
    (users if of == "users" else vectors)[1, 1] = value
    with pytest.raises(TrainingError, match="not finite"):
        rank_products([Query(users, NONE, NONE, None)], HeldItems(vectors, Catalogue(4)), 1)


def test_a_penalty_by_hand() -> None:
    """3 - 0.5 · ln 100 = 0.697, 2.5 - 0.5 · ln 10 = 1.349, 2 - 0.5 · ln 1 = 2; the fourth item must
    not be listed."""
    items = HeldItems(torch.tensor([[3.0], [2.5], [2.0], [9.0]]), Catalogue(4))
    offset = torch.tensor([-0.5 * np.log(100), -0.5 * np.log(10), 0, -np.inf])
    query = Query(torch.ones(1, 1), NONE, NONE, None)
    (((_, lists),),) = rank_products([query], items, 4, offset=offset)
    assert lists.ids.tolist() == [[3, 2, 1, 0]]
    assert lists.scores[0, :3].tolist() == pytest.approx([2, 1.3487, 0.6974], abs=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_whole_counts_rank_like_sparse_ones(seed: int) -> None:
    """With seen items, ties, ids without item and offsets; of one block."""
    case, rng = Case(seed), np.random.default_rng(seed)
    items = HeldItems(case.vectors, case.catalogue)
    offset = rng.integers(-2, 1, case.catalogue.largest).astype(np.float32)
    offset[rng.random(len(offset)) < 0.2] = -np.inf
    sparse = case.query()
    whole = replace(sparse, counted=shared(case.counts, 0.4))
    assert isinstance(whole.counted, np.ndarray)
    for added in (None, torch.from_numpy(offset)):
        found, expected = (
            rank_products([query], items, case.k, mixture=True, offset=added)[0]
            for query in (whole, sparse)
        )
        for (ranks, lists), (ranks_2, lists_2) in zip(found, expected, strict=True):
            assert ranks.tolist() == ranks_2.tolist()
            assert lists.ids.tolist() == lists_2.ids.tolist()
            np.testing.assert_allclose(lists.scores, lists_2.scores, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_offsets_of_items_like_a_plain_sort(seed: int, size: int) -> None:
    """Model alone and mixture: added after the probabilities, so that what is left keeps its
    score."""
    case = Case(seed)
    rng = np.random.default_rng(seed + 100)
    size_of = case.catalogue.largest
    offset = rng.integers(-2, 1, size_of).astype(np.float32)
    offset[rng.random(size_of) < 0.4] = -np.inf
    left = np.flatnonzero(np.isfinite(offset)) + 1
    kept = Catalogue(size_of, np.setdiff1d(np.arange(1, size_of + 1),
                                           np.intersect1d(left, case.catalogue.ids)))  # fmt: skip
    cut = Cut(case.vectors, case.catalogue, size)
    ((alone, mixed),) = rank_products(
        [case.query()], cut, case.k, mixture=True, offset=torch.from_numpy(offset)
    )
    every = len(case.catalogue)
    (((_, whole),),) = rank_products(
        [replace(case.query(), seen=None)], cut, every, mixture=True, alone=False
    )
    log_p = np.full((len(case.users), size_of), -np.inf)
    np.put_along_axis(log_p, whole.ids - 1, whole.scores, axis=1)
    for (ranks, lists), scores in ((alone, case.scores), (mixed, log_p)):
        expected = rank_plainly(
            (scores + offset).astype(np.float32), kept, case.owner, case.target, case.k,
            seen=case.seen,
        )  # fmt: skip
        width = expected[1].ids.shape[1]
        if scores is case.scores:
            assert ranks.tolist() == expected[0].tolist()
            assert lists.ids[:, :width].tolist() == expected[1].ids.tolist()
        assert not lists.ids[:, width:].any()
        np.testing.assert_allclose(lists.scores[:, :width], expected[1].scores, atol=1e-5)
