"""Ranking by sparse scores against a plain sort of all scores."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csr_array

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Jagged, offsets_of
from p5dist.errors import TrainingError
from p5dist.ranking import sparse
from p5dist.ranking.sparse import free_places, rank_and_list_sparse
from p5dist.ranking.topk import MISSED
from tests.ranking.plain import rank_plainly

NONE = np.zeros(0, dtype=np.int64)


@pytest.fixture(autouse=True, params=[0, 8])
def _arrays_of_all_scores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never (0), or for rows with many entries."""
    monkeypatch.setattr(sparse, "DENSE", request.param)


def jagged(lists: list[list[int]]) -> Jagged:
    values = np.array([x for one in lists for x in one], dtype=np.int64)
    return Jagged(offsets_of(np.array([len(one) for one in lists])), values)


def csr(dense: np.ndarray, rng: np.random.Generator, index: type = np.int32) -> csr_array:
    """The entries of a dense array that are not zero, those of a row in an order by chance."""
    entries, columns, ends = [], [], [0]
    for row in dense:
        at = rng.permutation(np.flatnonzero(row))
        entries.append(row[at].astype(np.float32))
        columns.append(at.astype(index))
        ends.append(ends[-1] + len(at))
    made = csr_array(dense.shape, dtype=np.float32)
    made.data, made.indices = np.concatenate(entries), np.concatenate(columns)
    made.indptr = np.array(ends, dtype=index)
    return made


def plain(
    row: np.ndarray, catalogue: Catalogue, hidden: set[int], k: int
) -> tuple[list[int], list[int]]:
    """All rankable ids, and the padded list, by a plain sort."""
    ids = [i for i in catalogue.ids.tolist() if i not in hidden]
    ids.sort(key=lambda i: (-row[i - 1], i))
    k = min(k, len(catalogue))
    return ids, (ids + [0] * k)[:k]


@pytest.mark.parametrize("seed", range(12))
def test_like_a_plain_sort(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 0 to 25 entries with many ties, seen items from none to all, absent ids, and lists
    up to longer than the catalogue."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(sparse, "CELLS", int(rng.choice([1, 40, 1 << 19])))
    rows, items = 30, 25
    absent = np.sort(rng.choice(items, rng.integers(0, 4), replace=False)) + 1
    catalogue = Catalogue(items, absent.astype(np.int64))
    dense = rng.integers(0, 4, (rows, items)) * (rng.random((rows, items)) < rng.random((rows, 1)))
    dense[0] = 0
    seen = [rng.integers(1, items + 1, rng.integers(0, 40)).tolist() for _ in range(rows)]
    seen[1], seen[2] = list(range(1, items + 1)), []
    targets = [rng.integers(1, items + 1, rng.integers(0, 6)).tolist() for _ in range(rows)]
    owner = np.repeat(np.arange(rows), [len(t) for t in targets])
    flat = np.concatenate(targets).astype(np.int64)
    scores = csr(dense, rng, np.int64 if seed % 2 else np.int32)
    masks = seen if seed % 3 else [[] for _ in range(rows)]
    for k in (1, 7, 24, 60):
        ranks, lists = rank_and_list_sparse(
            scores, catalogue, owner, flat, k, seen=jagged(seen) if seed % 3 else None
        )
        expected_ranks, expected = [], []
        for row in range(rows):
            ids, best = plain(dense[row], catalogue, set(masks[row]), k)
            expected.append(best)
            expected_ranks += [ids.index(t) + 1 if t in ids else MISSED for t in targets[row]]
        assert ranks.tolist() == expected_ranks
        assert lists.ids.tolist() == expected
        found = np.where(
            lists.ids > 0, np.take_along_axis(dense, np.maximum(lists.ids - 1, 0), 1), -np.inf
        )
        assert lists.scores.tolist() == found.tolist()


@pytest.mark.parametrize("mask", [True, False])
def test_like_dense_scores(mask: bool) -> None:
    """Scores that are not whole, of very different size, and wider rows than those above."""
    rng = np.random.default_rng(7)
    catalogue = Catalogue(400, np.array([5, 400]))
    dense = np.exp(rng.normal(0, 20, (50, 400))) * (rng.random((50, 400)) < rng.random((50, 1)))
    dense = dense.astype(np.float32)
    seen = jagged([rng.integers(1, 401, rng.integers(0, 90)).tolist() for _ in range(50)])
    owner, target = np.sort(rng.integers(0, 50, 300)), rng.integers(1, 401, 300)
    mine = seen if mask else None
    ranks, lists = rank_and_list_sparse(csr(dense, rng), catalogue, owner, target, 30, seen=mine)
    expected, best = rank_plainly(dense, catalogue, owner, target, 30, seen=mine)
    assert ranks.tolist() == expected.tolist()
    assert lists.ids.tolist() == best.ids.tolist()
    assert lists.scores.tolist() == best.scores.tolist()


def test_items_without_entry_come_last_in_the_order_of_ids() -> None:
    scores = csr(np.array([[0, 0, 2.0, 0, 0, 1.0]]), np.random.default_rng(0))
    owner, target = np.zeros(6, dtype=np.int64), np.arange(1, 7)
    ranks, lists = rank_and_list_sparse(
        scores, Catalogue(6), owner, target, 6, seen=jagged([[1, 1, 6]])
    )
    assert ranks.tolist() == [MISSED, 2, 1, 3, 4, MISSED]
    assert lists.ids.tolist() == [[3, 2, 4, 5, 0, 0]]
    assert lists.scores.tolist() == [[2, 0, 0, 0, -np.inf, -np.inf]]


def test_an_entry_of_zero_is_as_no_entry() -> None:
    scores = csr_array(
        (np.array([0, 1], np.float32), np.array([2, 3]), np.array([0, 2])), shape=(1, 5)
    )
    ranks, lists = rank_and_list_sparse(
        scores, Catalogue(5), np.zeros(2, np.int64), np.array([3, 2]), 5, seen=None
    )
    assert (ranks.tolist(), lists.ids.tolist()) == ([4, 3], [[4, 1, 2, 3, 5]])


def test_no_histories_and_no_entries() -> None:
    ranks, lists = rank_and_list_sparse(
        csr_array((0, 5), dtype=np.float32), Catalogue(5), NONE, NONE, 3, seen=jagged([])
    )
    assert (ranks.shape, lists.ids.shape) == ((0,), (0, 3))
    empty = csr_array((2, 5), dtype=np.float32)
    ranks, lists = rank_and_list_sparse(
        empty, Catalogue(5), np.array([1]), np.array([4]), 2, seen=jagged([[1], [1, 3]])
    )
    assert (ranks.tolist(), lists.ids.tolist()) == ([2], [[2, 3], [2, 4]])


def test_memory_does_not_grow_with_histories_times_items() -> None:
    """As a dense array these scores have 4 GB."""
    rng, rows, items, each = np.random.default_rng(3), 1000, 1_000_000, 50
    columns = rng.integers(0, items // each, (rows, each)) + np.arange(each) * (items // each)
    data = rng.random(rows * each).astype(np.float32) + 1
    scores = csr_array((data, columns.reshape(-1), np.arange(rows + 1) * each), shape=(rows, items))
    seen = Jagged(np.arange(rows + 1) * 20, rng.integers(1, items + 1, rows * 20))
    owner, target = np.arange(rows), columns[:, 7] + 1
    tracemalloc.start()
    ranks, lists = rank_and_list_sparse(scores, Catalogue(items), owner, target, 60, seen=seen)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20  # the ids of the catalogue take 8 MB
    assert ((ranks <= each) | (ranks == MISSED)).all()
    assert (lists.ids > 0).all() and ((lists.scores > 0).sum(1) >= each - 20).all()


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_scores_that_cannot_be_ranked(value: float) -> None:
    scores = csr(np.array([[1.0, value]]), np.random.default_rng(0))
    with pytest.raises(TrainingError, match="negative or not numbers"):
        rank_and_list_sparse(scores, Catalogue(2), NONE, NONE, 1, seen=None)


def test_free_places() -> None:
    # Of six places each: 0 and 2 are taken in the first row, none in the second, all but 3 in the
    # third, where place 6 is behind the last one.
    taken = np.array([0, 2, 14, 15, 16, 18, 19])
    assert free_places(taken, 3, 7, np.arange(2)).tolist() == [[1, 3], [0, 1], [3, 6]]
