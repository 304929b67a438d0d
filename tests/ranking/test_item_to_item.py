"""Item-to-item counts by hand and like the formula, one pair at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array, vstack

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.ranking import item_to_item
from p5dist.ranking.item_to_item import ItemToItem, pair_counts, weights_of
from tests.ranking.histories_of import histories, items_of
from tests.ranking.plain import rank_plainly, whole


def scores_of(ranker: ItemToItem, users: Histories) -> np.ndarray:
    return whole(ranker.scores(users))


def test_item_to_item_by_hand() -> None:
    # The only history is 1 2 3, each item once. c(1, 2) = 1, c(1, 3) = 0.8, c(2, 3) = 1,
    # backward a quarter of it.
    fitted = ItemToItem.fit([histories([[1, 2, 3]])], Catalogue(4))
    power = 2**0.6  # (n + 1)^0.5 · (n + 1)^0.1 with n = 1
    after_one = [0, 1 / power, 0.8 / power, 0]
    after_two = [0.25 / power, 0, 1 / power, 0]
    both = [after_two[j] + 0.6 * after_one[j] for j in range(4)]
    found = scores_of(fitted, histories([[1], [2], [1, 2], [], [4]]))
    assert found == pytest.approx(np.array([after_one, after_two, both, [0] * 4, [0] * 4]))


def slow_item_to_item(train: list[list[int]], users: list[list[int]], items: int) -> np.ndarray:
    """The formula of the docstring, one pair at a time."""
    strength = np.zeros((items, items))
    count = np.zeros(items)
    for history in train:
        for p, i in enumerate(history):
            count[i - 1] += 1
            for d in range(1, 11):
                if p + d < len(history):
                    j = history[p + d]
                    strength[i - 1, j - 1] += 0.8 ** (d - 1)
                    strength[j - 1, i - 1] += 0.25 * 0.8 ** (d - 1)
    strength /= ((count + 1) ** 0.5)[:, None] * ((count + 1) ** 0.1)[None]
    scores = np.zeros((len(users), items))
    for u, history in enumerate(users):
        for age, item in enumerate(history[::-1][:10]):
            scores[u] += 0.6**age * strength[item - 1]
    return scores


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_item_to_item_like_the_formula(
    small: bool, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sparse:
        monkeypatch.setattr(item_to_item, "DENSE", 0)
    if small:  # pairs are counted, and histories scored, a few at once
        monkeypatch.setattr(item_to_item, "_PAIRS", 300)
        monkeypatch.setattr(item_to_item, "TERMS", 20)
    rng = np.random.default_rng(5)
    train = [list(rng.integers(1, 13, rng.integers(0, 30))) for _ in range(25)]
    users = [list(rng.integers(1, 13, rng.integers(0, 15))) for _ in range(9)]
    fitted = ItemToItem.fit([histories(train[:10]), histories(train[10:])], Catalogue(12))
    expected = slow_item_to_item(train, users, 12)
    assert scores_of(fitted, histories(users)) == pytest.approx(expected, rel=1e-5)
    found = fitted.scores(histories(users))
    assert isinstance(found, csr_array if sparse else np.ndarray) and found.dtype == np.float32
    assert not scores_of(fitted, histories([[], []])).any()


def random_log(seed: int, users: int = 40, items: int = 30) -> Histories:
    rng = np.random.default_rng(seed)
    return histories(
        [rng.integers(1, items + 1, rng.integers(0, 25)).tolist() for _ in range(users)]
    )


def test_ranges_of_rows_are_finished_apart() -> None:
    """Counts of parts add up; rows of the weight need the counts of these rows only."""
    log = random_log(1)
    parts = [log.between(0, 7), log.between(7, 40)]
    forward = pair_counts(parts[0], 30) + pair_counts(parts[1], 30)
    count, backward = np.bincount(log.item - 1, minlength=30), forward.T.tocsr()
    rows = [slice(0, 11), slice(11, 11), slice(11, 30)]
    weight = vstack([weights_of(r, forward[r], backward[r], count) for r in rows])
    whole = ItemToItem.fit([log], Catalogue(30)).weight
    assert weight.toarray() == pytest.approx(whole.toarray(), rel=1e-12)


@pytest.mark.parametrize("terms", [None, 30, 1 << 23])
@pytest.mark.parametrize("mask", [True, False])
def test_ranks_and_lists_as_from_all_scores(
    mask: bool, terms: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if terms is not None:
        monkeypatch.setattr(item_to_item, "DENSE", 0)
        monkeypatch.setattr(item_to_item, "TERMS", terms)
    fitted = ItemToItem.fit([random_log(2, 15)], Catalogue(30, np.array([4, 30])))

    users, rng = random_log(3), np.random.default_rng(4)
    owner, target = np.sort(rng.integers(0, 40, 60)), rng.integers(1, 31, 60)
    seen = items_of(users) if mask else None
    for k in (1, 10, 28):
        ranks, lists = fitted.rank_and_list(users, owner, target, k, seen=seen)
        expected, best = rank_plainly(
            scores_of(fitted, users), fitted.catalogue, owner, target, k, seen=seen
        )
        assert ranks.tolist() == expected.tolist()
        assert lists.ids.tolist() == best.ids.tolist()
        assert lists.scores.tolist() == best.scores.tolist()


def test_a_weight_in_a_file_is_never_copied(tmp_path: Path) -> None:
    """A weight of 3,000 × 1,000 entries, a file per array: a history reads ten rows of it."""
    rng, items, each = np.random.default_rng(0), 3000, 1000
    arrays = {
        "data": rng.random(items * each).astype(np.float32),
        "indices": np.tile(np.arange(each) * 3, items).astype(np.int32),
        "indptr": (np.arange(items + 1) * each).astype(np.int32),
    }
    mapped = {}
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    weight = csr_array((mapped["data"], mapped["indices"], mapped["indptr"]), shape=(items, items))
    users = histories([[7, 2999], [], [3000]])
    tracemalloc.start()
    found = ItemToItem(Catalogue(items), weight).scores(users)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = np.zeros((items, items), np.float32)
    dense[:, ::3] = arrays["data"].reshape(items, each)
    expected = [dense[2998] + 0.6 * dense[6], np.zeros(items), dense[2999]]
    assert whole(found) == pytest.approx(np.array(expected), rel=1e-6)
    assert peak < 1 << 20 < arrays["data"].nbytes / 4
