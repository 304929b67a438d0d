"""Targets, their histories and seen items; item-to-item on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.ranking.metrics import estimate, rank_values
from p5dist.ranking.popularity import Popularity
from p5dist.ranking.targets import NO_HISTORY, NOT_CHOSEN, REPEATED, Rule, TargetBatch, Targets
from p5dist.ranking.topk import Ranker
from tests.ranking.histories_of import histories, whole_users

TRAIN, VALIDATION, TEST = c.TRAIN, c.VALIDATION, c.TEST

USERS = histories(
    [[1, 2, 3], [4, 5], [6, 7, 8, 9], [1]],
    [[1.0, 2.0, 3.0], [4.0, 5.0], [1.0, 2.0, 3.0, 4.0], [5.0]],
    [[TRAIN, VALIDATION, TEST], [TRAIN, TRAIN], [TEST, TRAIN, TEST, TRAIN], [TEST]],
)


def one_batch(targets: Targets) -> TargetBatch:
    (batch,) = targets.batches(100)
    return batch


def lists(users: Histories) -> list[list[int]]:
    return [x.tolist() for x in np.split(users.item, users.offsets[1:-1])]


def test_targets_of_test_have_train_and_validation_behind_them() -> None:
    targets = Targets.find(whole_users(USERS), Rule(TEST, sessions=False))
    batch = one_batch(targets)
    assert batch.histories.user.tolist() == [1, 3]
    assert lists(batch.histories) == [[1, 2], [7, 9]]
    assert batch.owner.tolist() == [0, 1, 1]
    assert batch.user.tolist() == [1, 3, 3]
    assert batch.item.tolist() == [3, 6, 8]
    assert batch.rating.tolist() == [3.0, 1.0, 3.0]
    assert targets.left_out == {NO_HISTORY: 1}  # of user 4
    assert targets.users_without_history == 1


def test_targets_of_validation_have_train_behind_them() -> None:
    targets = Targets.find(whole_users(USERS), Rule(VALIDATION, sessions=False))
    batch = one_batch(targets)
    assert batch.histories.item.tolist() == [1]
    assert (batch.user.tolist(), batch.item.tolist(), targets.left_out) == ([1], [2], {})


def test_batches_keep_targets_with_their_histories() -> None:
    one, two = Targets.find(whole_users(USERS), Rule(TEST, sessions=False)).batches(1)
    assert (one.histories.user.tolist(), one.owner.tolist(), one.item.tolist()) == ([1], [0], [3])
    assert (two.histories.user.tolist(), two.owner.tolist()) == ([3], [0, 0])
    assert two.item.tolist() == [6, 8]


REPEATS = histories(
    [[1, 2, 1], [3, 4, 5], [6, 6, 6, 7]],
    splits=[[TRAIN, TRAIN, TEST], [TRAIN, TRAIN, TEST], [TRAIN, TEST, TEST, TEST]],
)


def test_a_target_that_its_user_has_had_before_is_a_repeat() -> None:
    everything = Targets.find(whole_users(REPEATS), Rule(TEST, sessions=False))
    assert one_batch(everything).repeated.tolist() == [True, False, True, True, False]
    new = Targets.find(whole_users(REPEATS), Rule(TEST, sessions=False, targets="new"))
    assert one_batch(new).item.tolist() == [5, 7]
    assert new.left_out == {REPEATED: 3} and new.users_without_history == 0


SESSIONS = histories(
    [[1, 2, 3, 1, 4, 5, 4, 2]],
    splits=[[TRAIN, TRAIN, TRAIN, TRAIN, TEST, TEST, TEST, TEST]],
)
NUMBERS = [1, 1, 1, 2, 2, 3, 3, 3]
"""Sessions [1 2 3], [1 | 4], [| 5 4 2]; what is right of the bar is test."""


def test_with_sessions_a_target_has_the_interactions_before_it_in_its_session() -> None:
    targets = Targets.find(whole_users(SESSIONS, NUMBERS), Rule(TEST, sessions=True))
    batch = one_batch(targets)
    assert batch.item.tolist() == [4, 4, 2]
    assert lists(batch.histories) == [[1], [5], [5, 4]]
    assert targets.left_out == {NO_HISTORY: 1}  # the 5, first of its session
    assert targets.users_without_history == 0
    ends = zip(batch.seen.offsets, batch.seen.offsets[1:], strict=False)
    seen = [sorted(batch.seen.values[a:b].tolist()) for a, b in ends]
    # Earlier sessions as far as they train, and the session itself.
    assert seen == [[1, 1, 2, 3], [1, 1, 2, 3, 5], [1, 1, 2, 3, 4, 5]]
    assert batch.repeated.tolist() == [False, False, True]


def test_users_are_chosen_by_a_hash_and_the_others_are_counted() -> None:
    many = histories([[1, 2]] * 400, splits=[[TRAIN, TEST]] * 400)
    rule = Rule(TEST, sessions=False, share=0.3, seed=5)
    targets = Targets.find(whole_users(many), rule)
    (batch,) = targets.batches(1000)
    assert 80 < len(targets) < 160
    assert targets.left_out == {NOT_CHOSEN: 400 - len(targets)}
    half = np.arange(200, 400)
    (later,) = Targets.find(whole_users(many).take(half), rule).batches(1000)
    assert set(later.user.tolist()) == {u for u in batch.user.tolist() if u > 200}


def test_nobody() -> None:
    nobody = Targets.none(Rule(TEST, sessions=True))
    assert len(nobody) == 0 and len(nobody.nothing().histories) == 0
    assert list(nobody.batches(10)) == []


def movielens(folder: Path) -> Histories:
    """MovieLens 100K, leave one out; ties in time keep the order of the log."""
    log = np.loadtxt(folder / "u.data", dtype=np.int64)
    log = log[np.lexsort((np.arange(len(log)), log[:, 3], log[:, 0]))]
    items = [x[:, 1].tolist() for x in np.split(log, np.flatnonzero(np.diff(log[:, 0])) + 1)]
    splits = [[TRAIN] * (len(x) - 2) + [VALIDATION, TEST] for x in items]
    return histories(items, splits=splits)


@pytest.mark.parametrize(
    ("split", "expected"), [("validation", 0.119), ("test", 0.117)]
)  # measured with an independent program as well
def test_item_to_item_on_movielens(real_data: Path, split: str, expected: float) -> None:
    users = movielens(real_data / "ml-100k")
    train = users.where(users.split == TRAIN)
    rankers: dict[str, Ranker] = {
        "item_to_item": ItemToItem.fit([train], Catalogue(1682)),
        "popularity": Popularity(np.bincount(train.item - 1, minlength=1682), Catalogue(1682)),
    }
    chosen = Rule({"validation": VALIDATION, "test": TEST}[split], sessions=False)
    targets = Targets.find(whole_users(users), chosen)

    def ndcg(ranker: Ranker) -> float:
        ranks = [
            ranker.rank_and_list(part.histories, part.owner, part.item, 1, seen=part.seen)[0]
            for part in targets.batches(300)
        ]
        values = rank_values(np.concatenate(ranks), (10,))
        return estimate(values, np.arange(943), resamples=0, seed=1)["ndcg@10"].value

    assert ndcg(rankers["item_to_item"]) == pytest.approx(expected, abs=0.002)
    assert ndcg(rankers["popularity"]) < 0.05
