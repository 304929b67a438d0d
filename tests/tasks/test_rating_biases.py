"""Ratings start from fitted biases: by hand, as if the target had not been there, and in training,
validation, evaluation and the Python API alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import p5dist
from p5dist.config import dump_job
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.inference.evaluate import stage
from p5dist.inference.scorer import load_scorer
from p5dist.ranking.baselines import ITEM_SHRINKAGE, USER_SHRINKAGE, Biases
from p5dist.tasks.needs import prepare_tasks
from p5dist.tasks.predictions import before_others
from p5dist.tasks.rating.biases import read_biases
from p5dist.tasks.task import Context
from tests.data.test_histories import histories
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

RATING = "finetune/rating"


def rated(lists: list[list[int]], ratings: list[list[float]]) -> Histories:
    flat = np.array([r for own in ratings for r in own], dtype=np.float32)
    return replace(histories(lists), rating=flat)


def test_of_training_by_hand() -> None:
    """μ 3; item 1 has b 0.5 of 2 ratings, item 2 b -0.25 of 1 rating, item 3 has none."""
    biases = Biases(3.0, np.array([0.5, -0.25, 0.0]), np.array([2, 1, 0]))
    given = rated([[1, 2, 1], [2, 3]], [[4.0, np.nan, 5.0], [1.0, 2.0]])
    found = biases.of_training(given, np.array([1, 3]), np.array([2, 4]))
    # User 1 knows the rating 4 of item 1 and an interaction without one.
    user = (4 - 3 - 0.5) / (1 + USER_SHRINKAGE)
    item = ((2 + ITEM_SHRINKAGE) * 0.5 - (5 - 3 - user)) / (2 + ITEM_SHRINKAGE - 1)
    other = (1 - 3 + 0.25) / (1 + USER_SHRINKAGE)  # item 3 was not fitted
    assert found.tolist() == pytest.approx([3 + user + item, 3 + other])


def test_without_the_target_is_what_a_fit_without_it_gives() -> None:
    """Exact where a single sweep fits the items: no user has another rating."""
    lists = [[1], [1], [1]]
    given = rated(lists, [[5.0], [4.0], [1.0]])
    mean = 10 / 3
    whole = Biases(mean, np.array([(10 - 3 * mean) / (3 + ITEM_SHRINKAGE)]), np.array([3]))
    pair = rated([[1, 1]], [[np.nan, 1.0]])
    without = (5 + 4 - 2 * mean) / (2 + ITEM_SHRINKAGE)
    found = whole.of_training(pair, np.array([0]), np.array([1]))
    assert found[0] == pytest.approx(mean + without)
    assert len(given) == 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    job = small_job(
        tmp_path_factory.mktemp("biases"), "pretrain=null", "model.inputs={rating: false}",
        "finetune.rating.init_from=null",
        "finetune.rating.task={kind: rating, user_dim: 8, history: time, base: biases}",
        "finetune.rating.dense.lr=1e-9", "finetune.rating.tables.lr=1e-9", "evaluate.bootstrap=0",
    )  # fmt: skip
    run = write_small_data(job, users=80)
    run.job.write_text(dump_job(job))
    run_distributed(train, 1, job, RATING)
    return job, run


def test_an_untrained_model_predicts_the_biases(made: tuple) -> None:  # type: ignore[type-arg]
    job, run = made
    result = stage.run(job, run)
    rmse = result["metrics"]["rmse"]["value"]
    assert rmse == pytest.approx(result["baselines"]["user_item_bias"]["rmse"], abs=1e-4)
    assert rmse != pytest.approx(result["baselines"]["global_mean"]["rmse"], abs=1e-4)
    context = Context(job, Manifest.load(run.prepare), run.prepare)
    biases = read_biases(context, None)
    histories_ = rated([[3, 9]], [[5.0, 4.0]])
    expected = biases.predict(histories_, np.zeros(2, np.int64), np.array([1, 2]))
    api = p5dist.load(run.root.path).score(
        [["i3", "i9"]], [["i1", "i2"]], times=[[1, 2]], ratings=[[5, 4]]
    )
    assert api["score"].to_numpy() == pytest.approx(expected, abs=1e-4)


def test_the_written_biases_are_the_fitted_ones(made: tuple, tmp_path: Path) -> None:  # type: ignore[type-arg]
    job, run = made
    context = Context(job, Manifest.load(run.prepare), run.prepare)
    before = read_biases(context, None)
    prepare_tasks(job, RATING, run)
    assert (run.prepare / "biases-1/biases.json").exists()
    after = read_biases(context, None)
    assert after.mean == before.mean and after.count.tolist() == before.count.tolist()
    assert after.item == pytest.approx(before.item, abs=1e-6)
    reader = ShardReader(run.prepare, context.manifest, (c.RATING,))
    users = [reader.users(portion).histories.training() for portion in reader.portions(1000)]
    whole = Biases.fit(users, context.manifest.items)
    assert whole is not None and after.item == pytest.approx(whole.item, abs=1e-6)


def test_the_first_loss_is_the_squared_error_of_the_biases(made: tuple) -> None:  # type: ignore[type-arg]
    """Of the whole data in one batch."""
    job, run = made
    training = job.finetune["rating"].model_copy(
        update={"batch_size": 80, "steps": 1, "epochs": None}
    )
    feed = job.feed.model_copy(update={"lanes": 80, "max_length": 20})
    job = job.model_copy(update={"finetune": {"rating": training}, "feed": feed})
    context = Context(job, Manifest.load(run.prepare), run.prepare)
    biases, reader = (
        read_biases(context, None),
        ShardReader(run.prepare, context.manifest, ("rating",)),
    )
    whole = Histories.concat([reader.users(p).histories for p in reader.portions(1000)]).training()
    at = before_others(whole)
    base = biases.of_training(whole, at, at + 1)
    expected = np.square(base - whole.rating[at + 1]).mean()
    run.training(RATING).remove()
    write = write_small_data(job, users=80, group_rows=1)
    assert write.root == run.root
    (lines,) = run_distributed(train, 1, job, RATING)
    assert lines[0][1] == pytest.approx(expected, rel=1e-5)
    prepare_tasks(job, RATING, run)
    assert set(load_scorer(job, run, RATING).offsets) == {""}
