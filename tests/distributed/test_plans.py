"""A checkpoint of W workers loads with any number of workers under any sharding plan."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from tests.distributed.plans import Plan, folder_of, overrides, restore, save
from tests.distributed.stages import train, whole
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

# Row-wise Adagrad has momenta by row, so its tables are not split by column; see sharding.py.
PLANS: list[Plan] = [
    ("rowwise_adagrad", "row_wise"), ("rowwise_adagrad", "table_wise"),
    ("sgd", "row_wise"), ("sgd", "table_wise"), ("sgd", "column_wise"),
]  # fmt: skip


def check(root: Path, workers: list[int], plans: list[Plan]) -> None:
    """Every state saved by (W, plan) is the same, bit for bit, loaded by every (W', plan')."""
    saved = list(itertools.product(workers, plans))
    for count, plan in saved:
        write_small_data(small_job(folder_of(root, count, plan), *overrides(plan, 6)))
        run_distributed(save, count, root, count, plan)
    reference: dict[tuple[int, Plan], dict[str, torch.Tensor]] = {}
    compared = 0
    for count in workers:
        for sharding in {sharding for _, sharding in plans}:
            loadable = [
                (w, plan) for w, plan in saved if sharding != "column_wise" or plan[0] == "sgd"
            ]
            ranks = run_distributed(restore, count, root, loadable, sharding)
            for key in loadable:
                found = whole([states[key] for states in ranks])
                expected = reference.setdefault(key, found)
                assert found.keys() == expected.keys()
                assert not any(torch.isnan(value).any() for value in found.values())
                for name, value in expected.items():
                    assert torch.equal(found[name], value), (key, count, sharding, name)
                compared += 1
    assert compared >= len(saved) * len(workers)
    momenta = [v for n, v in reference[saved[0]].items() if n.startswith("fused.")]
    assert all(value.abs().sum() > 0 for value in momenta)


def test_one_and_two_workers_row_wise_and_table_wise(tmp_path: Path) -> None:
    check(tmp_path, [1, 2], PLANS[:2])


def test_column_wise(tmp_path: Path) -> None:
    check(tmp_path, [2], [PLANS[2], PLANS[4]])


@pytest.mark.slow
def test_one_to_four_workers_under_every_plan(tmp_path: Path) -> None:
    check(tmp_path, [1, 2, 3, 4], PLANS)


@pytest.mark.slow
def test_training_goes_on_with_the_same_losses_under_every_plan(tmp_path: Path) -> None:
    for kind in ("rowwise_adagrad", "sgd"):
        plans = [plan for plan in PLANS if plan[0] == kind]
        undisturbed = small_job(tmp_path / kind, *overrides(plans[0], 8))
        write_small_data(undisturbed)
        curve = run_distributed(train, 1, undisturbed, "pretrain")[0]
        for number, (before, after) in enumerate(itertools.product(plans, plans)):
            folder = tmp_path / f"{kind}-{number}"
            first = small_job(folder, *overrides(before, 8))
            write_small_data(first)
            losses = run_distributed(train, 3, first, "pretrain")[0][:6]
            (folder / "small/pretrain/checkpoints/step-00000008/complete.json").unlink()
            then = small_job(folder, *overrides(after, 8))
            losses += run_distributed(train, 2, then, "pretrain")[0]
            assert [step for step, _ in losses] == list(range(1, 9))
            assert [loss for _, loss in losses] == pytest.approx(
                [loss for _, loss in curve], rel=1e-5
            )


def test_a_plan_that_would_change_the_curve_is_refused(tmp_path: Path) -> None:
    job = small_job(tmp_path, *overrides(("rowwise_adagrad", "column_wise"), 6))
    write_small_data(job)
    with pytest.raises(Exception, match=r"column_wise only with tables\.kind: sgd"):
        run_distributed(train, 1, job, "pretrain")
