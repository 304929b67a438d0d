"""Private fine-tuning: whose gradients are added up, how they are clipped, where noise is added."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.storage import RunFolder
from p5dist.train.private.step import clip_gradient
from tests.distributed.stages import local_state, train, whole
from tests.processes import run_distributed
from tests.small_data import VECTORS, small_job, write_small_data
from tests.train.private_steps import (
    STAGE,
    VARIABLE,
    checks,
    noise_of_a_step,
    plain_training,
    planted,
    raises,
    sums_of_both,
    with_key,
    without_each,
)

KEY = "planted-key-of-noise-71d2"
TASKS = {
    "next": ["finetune.rating.task={kind: next_item}"],
    "sampled": [
        "finetune.rating.task={kind: next_item, loss: {kind: sampled_softmax, negatives: 12, "
        "distribution: uniform}}"
    ],
    "gbce": ["finetune.rating.task={kind: next_item, loss: {kind: gbce, negatives: 9}}"],
    "masked": ["finetune.rating.task={kind: next_item, by: masked}", "pretrain=null"],
    "rating": ["finetune.rating.task={kind: rating, base: mean, user_table: false}"],
    "user": [
        "finetune.rating.task={kind: rating, base: mean, user_dim: 8}",
        "model.inputs.user_id=true",
    ],
    "click": ["finetune.rating.task={kind: click, threshold: 3}"],
    "drawn": ["finetune.rating.task={kind: click, negatives: 2, user_table: false}"],
    "vectors": ["finetune.rating.task={kind: next_item}", *VECTORS],
    "three": [
        "prepare.source.columns.event=event",
        "finetune.rating.task={kind: multi, weights: learned, tasks: {next: {kind: next_item}, "
        "stars: {kind: rating, base: mean, history: time}, buys: {kind: click, positive: [buy]}}}",
    ],
}


def run(function: Callable[..., Any], workers: int, *args: Any, key: str = KEY) -> list[Any]:
    return run_distributed(with_key, workers, key, function, *args)


def private_job(folder: Path, *overrides: str, noise: float = 0.5, clip: float = 0.5) -> RunConfig:
    privacy = f"{{noise: {noise:g}, clip: {clip:g}, key: {VARIABLE}}}".replace("e-", ".0e-")
    job = small_job(
        folder, f"finetune.rating.privacy={privacy}", "finetune.rating.task={kind: next_item}",
        "finetune.rating.init_from=null", "finetune.rating.schedule.kind=constant",
        "finetune.rating.schedule.warmup_steps=0", "finetune.rating.checkpoint={every: 4, keep: 9}",
        *overrides,
    )  # fmt: skip
    write_small_data(job)
    return job


def losses(job: RunConfig, workers: int) -> list[tuple[int, float]]:
    ranks = run(train, workers, job, STAGE)
    assert all(rank == ranks[0] for rank in ranks)
    return ranks[0]


def assert_same(one: list[tuple[int, float]], other: list[tuple[int, float]]) -> None:
    assert [step for step, _ in one] == [step for step, _ in other]
    assert [loss for _, loss in other] == pytest.approx([loss for _, loss in one], rel=1e-4)


def test_clipping_by_hand() -> None:
    scaled, counted = clip_gradient(torch.tensor([3.0, 0.0, 4.0]), 1.0)
    assert scaled.tolist() == pytest.approx([0.6, 0.0, 0.8])
    assert counted.tolist() == [1, 1]
    scaled, counted = clip_gradient(torch.tensor([3.0, 4.0]), 5.5)
    assert scaled.tolist() == [3, 4] and counted.tolist() == [1, 0]
    scaled, counted = clip_gradient(torch.tensor([3.0, float("nan")]), 1.0)
    assert scaled.tolist() == [0, 0] and counted.tolist() == [1, 1]
    assert clip_gradient(torch.zeros(2), 1.0)[0].tolist() == [0, 0]


@pytest.mark.parametrize("clip", [1e6, 0.05])
@pytest.mark.parametrize("task", TASKS)
def test_the_sum_is_that_of_a_plain_program(task: str, clip: float, tmp_path: Path) -> None:
    job = private_job(tmp_path, *TASKS[task], clip=clip)
    found, expected = run(sums_of_both, 1, job)[0]
    assert expected.norm() > 0.01
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("task", TASKS)
def test_without_a_user_the_sum_changes_by_the_gradient_of_this_user(
    task: str, tmp_path: Path
) -> None:
    job = private_job(tmp_path, *TASKS[task], clip=0.3)
    moved = 0
    for everyone, others, user in run(without_each, 1, job)[0]:
        assert torch.allclose(everyone - others, user, atol=1e-6)
        assert user.norm() <= 0.3 * (1 + 1e-5)
        moved += int(user.norm() > 0.01)
    assert moved >= 2, "users without targets prove nothing"


def test_an_enormous_gradient_moves_the_sum_by_two_clips_at_most(tmp_path: Path) -> None:
    job = private_job(tmp_path, *TASKS["rating"], clip=0.1)
    before, after, norm = run(planted, 1, job)[0]
    assert norm > 1e4
    assert 0 < (after - before).norm() <= 2 * 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_number_gets_noise_of_the_stated_size_once(workers: int, tmp_path: Path) -> None:
    job = private_job(
        tmp_path, "finetune.rating.tables={kind: sgd, lr: 1}",
        "finetune.rating.dense.clip_norm=null", noise=3, clip=0.5,
    )  # fmt: skip
    ranks = run(noise_of_a_step, workers, job)
    dense, rows, row0 = ranks[0]
    for noise in (dense, rows.flatten()):
        assert noise.mean().abs() < 4 / noise.numel() ** 0.5
        assert noise.std() == pytest.approx(1, abs=4 / (2 * noise.numel()) ** 0.5)
    assert rows.abs().min() > 0, "rows of items that nobody had get noise too"
    assert row0 == 0, "padding stays zero"
    for other, *_ in ranks[1:]:
        assert torch.equal(other, dense), "the workers do not agree"


def test_without_noise_and_clipping_training_is_that_of_a_plain_program(
    tmp_path: Path,
) -> None:
    job = private_job(
        tmp_path, "finetune.rating.tables={kind: sgd, lr: 0.5}", "finetune.rating.steps=6",
        "finetune.rating.dense={clip_norm: null, lr: 1.0e-2}", noise=1e-30, clip=1e6,
    )  # fmt: skip
    expected = run(plain_training, 1, job, 6)[0]
    begun = whole(run(local_state, 1, job, STAGE))
    losses(job, 1)
    found = whole(run(local_state, 1, job, STAGE))
    assert sum("embedding" in name for name in expected) == 2
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-4), name
        assert not torch.allclose(begun[name], value, atol=2e-3), f"{name} was not trained"


@pytest.mark.parametrize("task", ["next", "user", "click", "three"])
def test_two_and_three_workers_have_the_curve_of_one(task: str, tmp_path: Path) -> None:
    curves = [losses(private_job(tmp_path / str(n), *TASKS[task]), n) for n in (1, 2, 3)]
    assert len({round(loss, 3) for _, loss in curves[0]}) > 5
    assert_same(curves[0], curves[1])
    assert_same(curves[0], curves[2])


def test_tables_above_the_limit_are_frozen_on_any_number_of_workers(tmp_path: Path) -> None:
    limit = "finetune.rating.privacy.table_rows=10"
    curves = []
    for workers in (1, 2):
        job = private_job(tmp_path / str(workers), limit)
        before = whole(run(local_state, workers, job, STAGE))
        curves.append(losses(job, workers))
        after = whole(run(local_state, workers, job, STAGE))
        moved = {
            n for n in before if n.startswith("model.") and not torch.equal(before[n], after[n])
        }
        assert "model.backbone.items.ids.embeddings.item.weight" not in moved
        assert "model.backbone.items.bags.embedding_bags.item_genre.weight" in moved
        report = tmp_path / f"{workers}/small/{STAGE}/privacy.json"
        assert '"item": "31 rows, more than 10"' in report.read_text()
    assert_same(*curves)


def test_rows_of_users_stay_as_they_are(tmp_path: Path) -> None:
    job = private_job(tmp_path, *TASKS["user"])
    before = whole(run(local_state, 2, job, STAGE))
    losses(job, 2)
    after = whole(run(local_state, 2, job, STAGE))
    for name in before:
        if "users.bags" in name:
            assert torch.equal(before[name], after[name]), name
    assert any("users.bags" in name for name in before)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_restart_goes_on_as_if_nothing_had_happened(workers: int, tmp_path: Path) -> None:
    curve = losses(private_job(tmp_path / "one"), 1)
    job = private_job(tmp_path / "two")
    losses(job, 2)
    checkpoints = tmp_path / f"two/small/{STAGE}/checkpoints"
    for step in (8, 10):
        shutil.rmtree(checkpoints / f"step-{step:08d}")
    assert_same(curve[4:], losses(job, workers))


def test_another_key_does_not_continue(tmp_path: Path) -> None:
    job = private_job(tmp_path)
    losses(job, 1)
    assert run(raises, 1, local_state, job, STAGE) == [""]
    (text,) = run(raises, 1, local_state, job, STAGE, key=KEY[::-1])
    assert "privacy.key has changed" in text and KEY not in text


def test_the_key_is_written_nowhere(tmp_path: Path) -> None:
    losses(private_job(tmp_path), 1)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


def test_runs_that_differ_have_other_noise(tmp_path: Path) -> None:
    same, again = private_job(tmp_path / "a"), private_job(tmp_path / "b")
    others = [
        private_job(tmp_path / "c", clip=0.6), private_job(tmp_path / "d", "seed=4"),
        private_job(tmp_path / "e", "finetune.rating.dense.lr=2.0e-3"),
    ]  # fmt: skip
    forgotten = private_job(tmp_path / "f")  # other data under the same fingerprint
    prepare = RunFolder.of_job(forgotten).prepare
    Manifest.read(prepare).model_copy(update={"emptied": "somebody"}).save(prepare)
    first, second, *rest = run(checks, 1, [same, again, *others, forgotten])[0]
    assert first == second
    assert len({first, *rest}) == 5


def test_runs_that_start_from_other_weights_have_other_noise(tmp_path: Path) -> None:
    """Also where the job file is the same: the difference of the models would be free of noise."""
    start = f"finetune.rating.init_from={tmp_path / 'start/small/pretrain'}"
    found = []
    for seed in (3, 3, 5):
        shutil.rmtree(tmp_path / "start", ignore_errors=True)
        source = small_job(tmp_path / "start", f"train_seed={seed}", "pretrain.steps=1")
        write_small_data(source)
        run(train, 1, source, "pretrain")
        job = private_job(tmp_path / "own", start)
        found += run(checks, 1, [job])[0]
        shutil.rmtree(tmp_path / "own")
    assert found[0] == found[1] != found[2]
