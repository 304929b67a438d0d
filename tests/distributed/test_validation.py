"""Validation, the best checkpoint and averaged weights do not depend on the number of workers, and
validation gives the same metrics as evaluate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.inference.evaluate import stage as evaluate
from p5dist.inference.scorer import load_scorer
from p5dist.storage import RunFolder
from tests.data.written import Row, as_windows, write
from tests.distributed.validating import run, run_in_small_blocks
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

MANY = (
    "finetune.rating.task={kind: multi, tasks: {a: {kind: rating, base: mean, history: time}, "
    "b: {kind: rating, base: mean, history: time, score: dot}}}"
)
VALIDATE = "pretrain.validation={every: 5, users: 1000}"


def validated(
    folder: Path, workers: int, *overrides: str, run: Any = run
) -> tuple[RunConfig, dict[str, Any]]:
    job = small_job(folder, "finetune={}", *overrides)
    if not (folder / "small/prepare").exists():
        write_small_data(job)
    return job, run_distributed(run, workers, job)[0]


def ndcg_by_hand(job: RunConfig, *, mask_seen: bool = True) -> float:
    """NDCG@10 of the saved model over the validation interactions, one user at a time."""
    folder = RunFolder.of(job.storage, job.name)
    manifest = Manifest.load(folder.prepare)
    scorer = load_scorer(job, folder, "pretrain")
    items = scorer.item_vectors().numpy()
    gains = []
    reader = ShardReader(folder.prepare, manifest, job.history_columns())
    for portion in reader.portions(1000):
        histories = reader.users(portion).histories
        for i in range(len(histories)):
            one = histories.take(np.asarray([i]))
            known = one.where(one.split == c.TRAIN)
            for target in one.item[one.split == c.VALIDATION]:
                scores = items @ scorer.user_vectors(known).numpy()[0]
                seen = set(known.item.tolist()) if mask_seen else set()
                better = [
                    item
                    for item in range(1, manifest.items + 1)
                    if item not in seen and scores[item - 1] > scores[target - 1]
                ]
                rank = len(better) + 1
                listed = int(target) not in seen and rank <= 10
                gains.append(1 / math.log2(rank + 1) if listed else 0.0)
    return sum(gains) / len(gains)


def test_it_is_the_metric_of_the_evaluation_at_any_number_of_workers(tmp_path: Path) -> None:
    job, one = validated(tmp_path / "1", 1, VALIDATE)
    _, two = validated(tmp_path / "2", 2, VALIDATE)
    assert [step for step, _ in one["validations"]] == [5, 10, 15, 20]
    assert [v for _, v in two["validations"]] == pytest.approx([v for _, v in one["validations"]])
    best_step, best = max(one["validations"], key=lambda v: v[1])
    chosen = Checkpoints(RunFolder.of(job.storage, job.name).training("pretrain") / "checkpoints")
    assert chosen.best().step == best_step
    assert ndcg_by_hand(job) == pytest.approx(best)


def test_the_catalogue_may_be_several_blocks(tmp_path: Path) -> None:
    """Blocks of 7 items, which no worker ever has all of."""
    _, whole = validated(tmp_path / "1", 1, VALIDATE)
    _, blocks = validated(tmp_path / "2", 2, VALIDATE, run=run_in_small_blocks)
    found, expected = ([v for _, v in one["validations"]] for one in (blocks, whole))
    assert found == pytest.approx(expected)


def test_seen_items_are_ranked_too_if_the_job_says_so(tmp_path: Path) -> None:
    unmasked = "pretrain.validation={every: 20, users: 1000, mask_seen: false}"
    job, found = validated(tmp_path, 1, unmasked)
    assert found["validations"][-1][1] == pytest.approx(ndcg_by_hand(job, mask_seen=False))
    assert ndcg_by_hand(job, mask_seen=False) != pytest.approx(ndcg_by_hand(job))


def test_validating_leaves_the_curve_as_it_is(tmp_path: Path) -> None:
    _, without = validated(tmp_path / "without", 1)
    _, with_it = validated(tmp_path / "with", 1, VALIDATE)
    assert with_it["losses"] == without["losses"]


def test_the_best_checkpoint_stays_though_only_the_newest_are_kept(tmp_path: Path) -> None:
    job, found = validated(
        tmp_path,
        1,
        "pretrain.validation={every: 1, users: 1000, patience: null}",
        "pretrain.checkpoint.keep=1",
    )
    best = max(found["validations"], key=lambda v: v[1])[0]
    folder = RunFolder.of(job.storage, job.name).training("pretrain")
    assert {x.step for x in Checkpoints(folder / "checkpoints").all()} == {best, 20}


def test_training_ends_early_on_all_workers_and_stays_ended(tmp_path: Path) -> None:
    """With a learning rate of almost zero nothing ever gets better than the first time."""
    settings = (
        "pretrain.validation={every: 2, users: 1000, patience: 3}", "pretrain.tables.lr=1e-12",
        "pretrain.dense.lr=1e-12",
    )  # fmt: skip
    _, found = validated(tmp_path, 2, *settings)
    assert [step for step, _ in found["validations"]] == [2, 4, 6, 8]
    assert found["finished"]
    assert [step for step, _ in found["losses"]] == list(range(1, 9))
    _, again = validated(tmp_path, 1, *settings)
    assert again["finished"]
    assert again["losses"] == []


def test_the_average_is_what_its_formula_says_and_is_ranked_with(tmp_path: Path) -> None:
    average = "pretrain.average={decay: 0.5, every: 5}"
    job, found = validated(tmp_path / "1", 1, VALIDATE, average)
    # Ages 1 to 4 of the average: decay min(0.5^5, age / (age + 9)).
    expected: dict[str, Any] = dict(found["start"])
    for age, (_, weights) in enumerate(found["weights"], 1):
        decay = min(0.5**5, age / (age + 9))
        for name, value in weights.items():
            expected[name] = expected[name] * decay + value * (1 - decay)
    for name, value in found["average"].items():
        assert np.allclose(value, expected[name], rtol=1e-5, atol=1e-7), name
    best = max(v for _, v in found["validations"])
    assert ndcg_by_hand(job) == pytest.approx(best)
    _, two = validated(tmp_path / "2", 2, VALIDATE, average)
    assert [v for _, v in two["validations"]] == pytest.approx([v for _, v in found["validations"]])


@pytest.mark.parametrize(
    ("stage", "metric", "settings"),
    [
        ("pretrain", "ndcg@10", []),
        ("finetune/rating", "rmse", []),
        ("finetune/rating", "b/mae", [MANY]),
        ("finetune/rating", "auc", ["finetune.rating.task={kind: click, negatives: 2}"]),
    ],
)
def test_on_all_users_it_is_the_evaluation_of_the_validation_split(
    tmp_path: Path, stage: str, metric: str, settings: list[str]
) -> None:
    """Users with sessions and windows, on one worker and on two; also metrics that are no mean."""
    section = stage.replace("/", ".")
    job = small_job(
        tmp_path, "prepare.items=null", "model.item_attributes=[]", "prepare.session_gap=10",
        "prepare.source.columns.event=event", "finetune.rating.init_from=null",
        f"{section}.validation={{every: 5, users: 1000, metric: {metric}}}", "report=null",
        f"{section}.steps=5", "evaluate.split=validation", "evaluate.bootstrap=0", *settings,
    )  # fmt: skip
    if stage != "pretrain":
        job = job.model_copy(update={"pretrain": None})
    folder = RunFolder.of(job.storage, job.name)
    rng = np.random.default_rng(4)
    shards = [[_sessions(rng) for _ in range(20)] for _ in range(3)]
    write(Path(folder.prepare.path), as_windows(shards, 2), items=30, group_rows=3)
    one = run_distributed(run, 1, job, stage)[0]["validations"]
    if stage == "pretrain":
        job = job.model_copy(update={"finetune": {}})
    name = metric.rsplit("/", 1)[-1]
    expected = evaluate.run(job, folder)["metrics"][name]["value"]
    assert one == [(5, pytest.approx(expected, rel=1e-6))]
    (folder.training(stage)).remove()
    two = run_distributed(run, 2, job, stage)[0]["validations"]
    assert two == [(5, pytest.approx(expected, rel=1e-5))]


def _sessions(rng: np.random.Generator) -> tuple[Row, ...]:
    """One to four sessions of one user."""
    rows = []
    for _ in range(int(rng.integers(1, 5))):
        n = int(rng.integers(1, 7))
        splits = (0,) * max(n - 2, 0) + (1, 2)[: min(n, 2)]
        rows.append(Row(False, tuple(int(i) for i in rng.integers(1, 31, n)), splits))
    return tuple(rows)
