"""PPMI by hand, its factors against a dense decomposition, and the ranking on real data."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Jagged
from p5dist.ranking.item_to_item import pair_counts
from p5dist.ranking.popularity import Popularity
from p5dist.ranking.ppmi import PpmiSvd, ppmi
from tests.ranking.histories_of import histories


def test_ppmi_by_hand() -> None:
    pairs = csr_array(np.array([[0.0, 3, 1], [3, 0, 0], [1, 0, 0]]))
    # n(i) = 4, 3, 1; contexts 4^.75, 3^.75 and 1, together 6.10793.
    four, three = 4**0.75, 3**0.75
    total = four + three + 1
    expected = [
        [0, log(3 / (4 * three) * total), log(1 / (4 * 1) * total)],
        [log(3 / (3 * four) * total), 0, 0],
        [log(1 / (1 * four) * total), 0, 0],
    ]
    assert ppmi(pairs).toarray() == pytest.approx(np.array(expected))
    # Items 3 and 4 occur together less often than by chance: log(0.1 / …) < 0.
    rare = csr_array(np.array([[0.0, 9, 9, 9], [9, 0, 9, 9], [9, 9, 0, 0.1], [9, 9, 0.1, 0]]))
    assert ppmi(rare).toarray()[2, 3] == 0 and ppmi(rare).nnz == 10


def counts(seed: int, items: int) -> csr_array:
    rng = np.random.default_rng(seed)
    return pair_counts(
        histories([rng.integers(1, items + 1, rng.integers(0, 12)).tolist() for _ in range(60)]),
        items,
    )


@pytest.mark.parametrize("dim", [1, 5, 23, 24, 25, 40])
def test_factors_like_a_dense_decomposition(dim: int) -> None:
    """All numbers of dimensions, from one to more than the catalogue has items."""
    forward = counts(1, 25)
    u, s, _ = np.linalg.svd(ppmi(forward + forward.T).toarray())
    expected = (u[:, :dim] * s[:dim]) @ u[:, :dim].T
    vectors = PpmiSvd.fit(forward, Catalogue(25), dim, seed=3).item_vectors
    assert vectors.shape == (25, dim) and vectors.dtype == np.float32
    assert vectors @ vectors.T == pytest.approx(expected, abs=1e-4)


def test_the_same_counts_and_seed_give_the_same_vectors() -> None:
    first, again = (PpmiSvd.fit(counts(2, 40), Catalogue(40), 6, seed=5) for _ in range(2))
    assert (first.item_vectors == again.item_vectors).all()
    other = PpmiSvd.fit(counts(2, 40), Catalogue(40), 6, seed=6)
    assert other.item_vectors == pytest.approx(first.item_vectors, abs=1e-4)  # signs are fixed


def test_vectors_of_users_and_of_items_without_pairs() -> None:
    forward = pair_counts(histories([[1, 2, 3, 1]]), 5)
    fitted = PpmiSvd.fit(forward, Catalogue(5), 2, seed=1)
    v = fitted.item_vectors
    assert not v[3:].any() and v[:3].any()
    long = [3] + [1] * 9 + [2]  # the first one is too long ago
    found = fitted.user_vectors(histories([[1, 2, 3], [], long]))
    expected = [v[2] + 0.8 * v[1] + 0.64 * v[0], [0, 0]]
    expected.append(v[1] + sum(0.8**a for a in range(1, 10)) * v[0])
    assert found == pytest.approx(np.array(expected), rel=1e-5)
    nothing = PpmiSvd.fit(csr_array((4, 4), dtype=np.float64), Catalogue(4), 2, seed=1)
    assert not nothing.item_vectors.any()


def test_beats_popularity_on_real_data(real_data: Path) -> None:
    """MovieLens-100K, the last item of each user held out: NDCG@10 among unseen items."""
    log_ = np.loadtxt(real_data / "ml-100k" / "u.data", dtype=np.int64)
    log_ = log_[np.lexsort((log_[:, 3], log_[:, 0]))]
    users = [
        rows[:, 1].tolist() for rows in np.split(log_, np.flatnonzero(np.diff(log_[:, 0])) + 1)
    ]
    known, target = histories([items[:-1] for items in users]), [items[-1] for items in users]
    catalogue = Catalogue(1682)
    fitted = PpmiSvd.fit(pair_counts(known, 1682), catalogue, 64, seed=1)
    scores = fitted.user_vectors(known) @ fitted.item_vectors.T
    scores[known.owner(), known.item - 1] = -np.inf
    wanted = np.array(target) - 1
    rank = 1 + (scores > scores[np.arange(len(users)), wanted][:, None]).sum(1)
    popular = Popularity(np.bincount(known.item - 1, minlength=1682), catalogue)
    others, _ = popular.rank_and_list(
        known, np.arange(len(users)), wanted + 1, 10, seen=Jagged(known.offsets, known.item)
    )

    def ndcg(ranks: np.ndarray) -> float:
        return float(np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0).mean())

    assert ndcg(rank) > 1.1 * ndcg(others)
