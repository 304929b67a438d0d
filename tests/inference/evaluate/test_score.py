"""Which interactions are targets, from which history; item-to-item on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.inference.actors import Unit
from p5dist.inference.evaluate.score import Plan, TargetScorer
from p5dist.ranking.baselines import ItemToItem, Popularity
from p5dist.ranking.metrics import estimate, rank_values
from p5dist.ranking.targets import Targets
from p5dist.storage import RunFolder
from tests.fake_scorer import load_fake
from tests.ranking.histories_of import histories
from tests.small_data import small_job

TRAIN, VALIDATION, TEST = c.TRAIN, c.VALIDATION, c.TEST

USERS = histories(
    [[1, 2, 3], [4, 5], [6, 7, 8, 9], [1]],
    [[1.0, 2.0, 3.0], [4.0, 5.0], [1.0, 2.0, 3.0, 4.0], [5.0]],
    [[TRAIN, VALIDATION, TEST], [TRAIN, TRAIN], [TEST, TRAIN, TEST, TRAIN], [TEST]],
)


def test_targets_of_test_have_train_and_validation_behind_them() -> None:
    targets, skipped = Targets.of(USERS, TEST)
    assert targets.histories.user.tolist() == [1, 3]
    assert [targets.histories.item[:2].tolist(), targets.histories.item[2:].tolist()] == [
        [1, 2],
        [7, 9],
    ]
    assert targets.owner.tolist() == [0, 1, 1]
    assert targets.user.tolist() == [1, 3, 3]
    assert targets.item.tolist() == [3, 6, 8]
    assert targets.rating.tolist() == [3.0, 1.0, 3.0]
    assert skipped == 1  # user 4: nothing is known about them before


def test_targets_of_validation_have_train_behind_them() -> None:
    targets, skipped = Targets.of(USERS, VALIDATION)
    assert targets.histories.item.tolist() == [1]
    assert (targets.user.tolist(), targets.item.tolist(), skipped) == ([1], [2], 0)


def test_batches_keep_targets_with_their_histories() -> None:
    one, two = Targets.of(USERS, TEST)[0].batches(1)
    assert (one.histories.user.tolist(), one.owner.tolist(), one.item.tolist()) == ([1], [0], [3])
    assert (two.histories.user.tolist(), two.owner.tolist()) == ([3], [0, 0])
    assert two.item.tolist() == [6, 8]


def movielens(folder: Path) -> Histories:
    """MovieLens 100K, leave one out; ties in time keep the order of the log."""
    log = np.loadtxt(folder / "u.data", dtype=np.int64)
    log = log[np.lexsort((np.arange(len(log)), log[:, 3], log[:, 0]))]
    items = [x[:, 1].tolist() for x in np.split(log, np.flatnonzero(np.diff(log[:, 0])) + 1)]
    splits = [[TRAIN] * (len(x) - 2) + [VALIDATION, TEST] for x in items]
    return histories(items, splits=splits)


@pytest.mark.parametrize(
    ("split", "ndcg"), [("validation", 0.119), ("test", 0.117)]
)  # measured with an independent program as well
def test_item_to_item_on_movielens(
    real_data: Path, tmp_path: Path, split: str, ndcg: float
) -> None:
    users = movielens(real_data / "ml-100k")
    train = users.where(users.split == TRAIN)
    rankers = {
        "item_to_item": ItemToItem.fit([train], 1682),
        "popularity": Popularity(np.bincount(train.item - 1, minlength=1682)),
    }
    job = small_job(tmp_path, f"evaluate.split={split}", "evaluate.batch_size=300")
    folder = RunFolder.of(job.storage, job.name)
    plan = Plan(job, folder, None, None, None, None, None, load_fake)
    result = TargetScorer(plan, rankers, {}, None)(Unit(0, (), 943), users)
    found = {
        name: estimate(
            rank_values(np.asarray(result[f"rank:{name}"][0].as_py()), (10,)),
            np.arange(943), resamples=0, seed=1,
        )["ndcg@10"].value
        for name in rankers
    }  # fmt: skip
    assert found["item_to_item"] == pytest.approx(ndcg, abs=0.002)
    assert found["popularity"] < 0.05
