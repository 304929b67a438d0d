"""Shadow runs: halves of users, likelihood ratios, and trainings that remember or do not."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from p5dist.data.labelled import ShadowUsers
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError
from p5dist.feed.mix import open_mix
from p5dist.shadows import check_number, likelihood_ratio, measure, shadow_job, weighted_auc
from p5dist.storage import RunFolder
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

STAGE = "pretrain"


def test_pairs_of_shadows_share_the_users() -> None:
    users = np.arange(1, 5001)
    halves = [ShadowUsers(k, 3)(users) for k in range(4)]
    assert np.array_equal(halves[0], ~halves[1]) and np.array_equal(halves[2], ~halves[3])
    for half in halves:
        assert half.mean() == pytest.approx(0.5, abs=0.03)
    assert (halves[0] & halves[2]).mean() == pytest.approx(0.25, abs=0.03)


def test_the_area_counts_pairs_of_users() -> None:
    draw = np.random.default_rng(0)
    score, member = draw.integers(0, 6, 50).astype(float), draw.random(50) < 0.4
    times = draw.integers(0, 3, 50)
    repeated, inside = np.repeat(score, times), np.repeat(member, times)
    pairs = list(product(repeated[inside], repeated[~inside]))
    won = sum((m > o) + 0.5 * (m == o) for m, o in pairs) / len(pairs)
    assert weighted_auc(score, member, times.astype(float)) == pytest.approx(won)


def test_the_ratio_is_that_of_normal_densities_and_leaves_out_the_pair() -> None:
    draw = np.random.default_rng(1)
    inside = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [0, 1], [1, 0]], dtype=bool)
    sure = draw.normal(size=(6, 2))
    found = likelihood_ratio(sure, inside, 0)
    for user in range(2):
        known = [k for k in range(6) if k > 1]
        mean = [np.mean([sure[k, user] for k in known if inside[k, user] == w]) for w in (0, 1)]
        x = sure[0, user]
        expected = (-((x - mean[1]) ** 2) + (x - mean[0]) ** 2) / 2
        assert found[user] == pytest.approx(expected)
    changed = sure.copy()
    changed[1] = 99
    assert np.array_equal(likelihood_ratio(changed, inside, 0), found)


@pytest.mark.parametrize(
    ("steps", "lr", "lowest", "highest"), [(300, 0.01, 0.85, 1.0), (1, 1e-9, 0.35, 0.65)]
)
def test_trainings_that_remember_their_users_are_told_apart(
    tmp_path: Path, steps: int, lr: float, lowest: float, highest: float
) -> None:
    job = small_job(
        tmp_path, f"pretrain.steps={steps}", "pretrain.checkpoint={every: 1000}", "finetune={}",
        f"pretrain.dense.lr={lr}", f"pretrain.tables.lr={10 * lr}", "pretrain.batch_size=48",
        "model.encoder.dropout=0", "pretrain.schedule={kind: constant, warmup_steps: 0}",
        "model.item_attributes=[]",
    )  # fmt: skip
    folder = write_small_data(job, users=120)
    manifest = Manifest.load(folder.prepare)
    jobs = [shadow_job(job, k) for k in range(4)]
    rows = [open_mix(one, STAGE, RunFolder.of_job(one), manifest).own.order for one in jobs]
    trained = [int(order.groups.rows.sum()) for order in rows]
    assert trained[0] + trained[1] == trained[2] + trained[3] == 120
    assert len({one.fingerprint(STAGE) for one in [job, *jobs]}) == 5
    for one in jobs:
        run_distributed(train, 1, one, STAGE)
    found = measure(job, STAGE, 4)
    assert found["users"] > 80
    assert lowest < found["auc"] <= highest
    assert found["low"] <= found["auc"] <= found["high"]


@pytest.mark.parametrize("number", [2, 5, -4])
def test_numbers_of_shadows(number: int) -> None:
    with pytest.raises(ConfigError, match="an even number from 4 on"):
        check_number(number)
