"""Losses do not depend on the number of workers, nor on interruptions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from p5dist.config import RunConfig
from tests.distributed.stages import local_state, train, whole
from tests.processes import run_distributed
from tests.small_data import VECTORS, small_job, write_small_data

SAMPLED = "pretrain.objective.loss={kind: sampled_softmax, negatives: 12}"


def job_in(folder: Path, *overrides: str) -> RunConfig:
    job = small_job(folder, *overrides)
    write_small_data(job)
    return job


def losses(job: RunConfig, workers: int, stage: str = "pretrain") -> list[tuple[int, float]]:
    per_rank = run_distributed(train, workers, job, stage)
    assert all(ranks == per_rank[0] for ranks in per_rank), "the global loss differs by rank"
    return per_rank[0]


def assert_same_curve(one: list[tuple[int, float]], other: list[tuple[int, float]]) -> None:
    assert [step for step, _ in one] == [step for step, _ in other]
    assert [loss for _, loss in other] == pytest.approx([loss for _, loss in one], rel=1e-5)


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, float]]]:
    """A pretraining of 20 steps by one worker, with dropout, attributes and ratings."""
    folder = tmp_path_factory.mktemp("one")
    return folder, losses(job_in(folder), 1)


def test_two_and_three_workers_have_the_curve_of_one(
    one_worker: tuple[Path, list[tuple[int, float]]], tmp_path: Path
) -> None:
    curve = one_worker[1]
    assert len(curve) == 20
    assert curve[-1][1] < curve[0][1], "nothing was learned, so equal curves would prove nothing"
    for workers in (2, 3):
        assert_same_curve(curve, losses(job_in(tmp_path / str(workers)), workers))


def test_supplied_vectors_have_the_same_curve(
    one_worker: tuple[Path, list[tuple[int, float]]], tmp_path: Path
) -> None:
    curve = losses(job_in(tmp_path / "1", *VECTORS), 1)
    assert curve[0] != one_worker[1][0]
    assert_same_curve(curve, losses(job_in(tmp_path / "2", *VECTORS), 2))


def test_sampled_negatives_belong_to_the_global_batch(tmp_path: Path) -> None:
    curve = losses(job_in(tmp_path / "1", SAMPLED), 1)
    assert_same_curve(curve, losses(job_in(tmp_path / "2", SAMPLED), 2))


def test_rows_and_gradients_may_travel_in_half_precision(
    one_worker: tuple[Path, list[tuple[int, float]]], tmp_path: Path
) -> None:
    halved = losses(job_in(tmp_path, "pretrain.tables={exchange: fp16}"), 2)
    pairs = [(a, b) for (_, a), (_, b) in zip(one_worker[1], halved, strict=True)]
    assert all(b == pytest.approx(a, rel=5e-3) for a, b in pairs)
    assert any(b != pytest.approx(a, rel=1e-6) for a, b in pairs), "nothing was rounded"


def test_bf16_has_nearly_the_curve_of_float32_on_any_number_of_workers(
    one_worker: tuple[Path, list[tuple[int, float]]], tmp_path: Path
) -> None:
    for workers in (1, 2):
        job = job_in(tmp_path / str(workers), "pretrain.precision=bf16")
        for (_, a), (_, b) in zip(one_worker[1], losses(job, workers), strict=True):
            assert b == pytest.approx(a, rel=2e-2)


@pytest.mark.slow
def test_a_compiled_encoder_has_the_same_curve(
    one_worker: tuple[Path, list[tuple[int, float]]], tmp_path: Path
) -> None:
    assert_same_curve(one_worker[1], losses(job_in(tmp_path, "pretrain.compile=true"), 1))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_stopped_on_two_workers_goes_on_with_another_number(
    one_worker: tuple[Path, list[tuple[int, float]]], tmp_path: Path, workers: int
) -> None:
    """Stopped at step 10 of 20: what comes after is as if nothing had happened."""
    job = job_in(tmp_path)
    losses(job, 2)
    checkpoints = tmp_path / "small/pretrain/checkpoints"
    for step in (15, 20):
        shutil.rmtree(checkpoints / f"step-{step:08d}")
    continued = losses(job, workers)
    assert_same_curve(one_worker[1][10:], continued)


def test_a_checkpoint_is_the_same_state_at_any_number_of_workers(tmp_path: Path) -> None:
    """Tables, fused momenta and Adam's moments, bit for bit."""
    job = job_in(tmp_path)
    losses(job, 2)
    two = whole(run_distributed(local_state, 2, job, "pretrain"))
    assert any(name.startswith("fused.") for name in two)
    assert any(name.endswith("exp_avg_sq") and value.abs().sum() > 0 for name, value in two.items())
    for workers in (1, 3):
        other = whole(run_distributed(local_state, workers, job, "pretrain"))
        assert other.keys() == two.keys()
        for name, value in two.items():
            assert torch.equal(other[name], value), name


def test_fine_tuning_starts_from_pretraining_at_any_number_of_workers(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    losses(job, 1)
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    curve = losses(job, 1, "finetune/rating")
    assert len(curve) == 10
    copied = small_job(tmp_path / "copy")
    assert_same_curve(curve, losses(copied, 2, "finetune/rating"))
    shutil.rmtree(tmp_path / "small/finetune")
    scratch = small_job(tmp_path, "finetune.rating.init_from=null")
    assert losses(scratch, 1, "finetune/rating")[0] != curve[0]
