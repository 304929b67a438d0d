"""A membership-inference attack: high for a model that has learned random histories by heart, one
half for a model that has not learned."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from p5dist.errors import DataError
from p5dist.inference.membership import Pairs, attack
from p5dist.storage import RunFolder
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data


def test_the_area_counts_pairs_of_ranks() -> None:
    draw = np.random.default_rng(0)
    member, other = draw.integers(1, 9, 40), draw.integers(3, 12, 40)
    won = sum((m < o) + 0.5 * (m == o) for m, o in product(member, other))
    assert Pairs(member, other).auc() == pytest.approx(won / 1600)
    low, high = Pairs(member, other).interval(1)
    assert low < won / 1600 < high
    assert Pairs(np.array([1, 2]), np.array([3, 4])).auc() == 1
    assert Pairs(np.array([5, 5]), np.array([5, 5])).auc() == 0.5


@pytest.mark.parametrize(
    ("steps", "lr", "lowest", "highest"), [(300, 0.01, 0.85, 1.0), (1, 1e-9, 0.35, 0.65)]
)
def test_what_is_learned_by_heart_is_found(
    tmp_path: Path, steps: int, lr: float, lowest: float, highest: float
) -> None:
    job = small_job(
        tmp_path, f"pretrain.steps={steps}", "pretrain.checkpoint={every: 1000}", "finetune={}",
        f"pretrain.dense.lr={lr}", f"pretrain.tables.lr={10 * lr}", "pretrain.batch_size=48",
        "model.encoder.dropout=0", "pretrain.schedule={kind: constant, warmup_steps: 0}",
        "model.item_attributes=[]",
    )  # fmt: skip
    write_small_data(job, users=120)
    run_distributed(train, 1, job, "pretrain")
    found = attack(job, RunFolder.of(job.storage, job.name), "pretrain")
    assert found["users"] > 80
    assert lowest < found["auc"] <= highest
    assert found["low"] <= found["auc"] <= found["high"]
    assert 0.35 < found["control"]["auc"] < 0.65


def test_without_held_out_interactions(tmp_path: Path) -> None:
    job = small_job(tmp_path, "pretrain.steps=1", "pretrain.checkpoint={every: 1}", "finetune={}")
    write_small_data(job, users=40)
    run_distributed(train, 1, job, "pretrain")
    with pytest.raises(DataError, match="nobody to ask about"):
        attack(job, RunFolder.of(job.storage, job.name), "pretrain", users=0)
