"""Which step first trains on somebody, and training that goes on from before it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.config import RunConfig, dump_job
from p5dist.data.manifest import Manifest
from p5dist.feed.mix import open_mix
from p5dist.forgetting import forget as forgetting
from p5dist.forgetting.models import Seen, first_step, untrain
from p5dist.forgetting.runs import related_runs
from p5dist.storage import RunFolder
from tests.distributed.stages import local_state, train, whole
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

STEPS = (
    "pretrain.steps=8", "pretrain.checkpoint={every: 1, keep: 9}", "finetune={}",
    "recommend=null", "evaluate=null",
)  # fmt: skip


def small(folder: Path, *more: str) -> tuple[RunConfig, RunFolder]:
    job = small_job(folder, *STEPS, *more)
    run = write_small_data(job)
    run.job.write_text(dump_job(job))
    (run.prepare / "profile.json").write_json(
        {"interactions": 0, "users": 50, "rows_rejected": {}, "warnings": []}
    )
    return job, run


def taken(job: RunConfig, run: RunFolder) -> dict[int, int]:
    """By row number the first step that takes it, from the order of every step."""
    order = open_mix(job, "pretrain", run, Manifest.load(run.prepare)).own.order
    found: dict[int, int] = {}
    epoch = order.of_epoch(0)
    for group, start in zip(epoch.group, epoch.start, strict=True):
        for place, row in enumerate(order.rows_of_group(0, int(group)).tolist()):
            found[row] = (int(start) + place) // order.rows_per_lane
    return found


def test_the_first_step_of_rows(tmp_path: Path) -> None:
    job, run = small(tmp_path)
    order = open_mix(job, "pretrain", run, Manifest.load(run.prepare)).own.order
    steps = taken(job, run)
    for row in range(50):
        assert first_step(order, np.array([row])) == steps[row]
    assert first_step(order, np.array([7, 21, 3])) == min(steps[7], steps[21], steps[3])
    assert first_step(order, np.zeros(0, np.int64)) is None


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_again_from_before_is_training_without_them(tmp_path: Path, workers: int) -> None:
    """The weights are those of a model that never had the person's data, bit for bit on one
    worker."""
    job, run = small(tmp_path / "one")
    steps = taken(job, run)
    late = max(row for row in range(50) if steps[row] == max(steps.values()) and row > 0)
    assert steps[late] > 1, "the first epoch takes several steps"
    run_distributed(train, workers, job, "pretrain")
    (tmp_path / "gone.txt").write_text(f"u{late + 1}\n")
    first = forgetting.forget(job, str(tmp_path / "gone.txt"))
    assert first["runs"]["small"]["train_again"] == []
    found = forgetting.forget(job, str(tmp_path / "gone.txt"), retrain=True)  # decided later
    assert forgetting.forget(job, str(tmp_path / "gone.txt"))["runs"]["small"]["models"] == [
        found["runs"]["small"]["models"][0] | {"steps": steps[late], "first": None}
    ]
    (about,) = found["runs"].values()
    (model,) = about["models"]
    assert model["first"] == model["before"] == steps[late]
    assert about["train_again"] == ["pretrain"]
    kept = [one.step for one in Checkpoints(run.training("pretrain") / "checkpoints").all()]
    assert kept == list(range(1, steps[late] + 1))
    other = job.model_copy(update={"storage": str(tmp_path / "two")})
    shutil.copytree(run.prepare.path, RunFolder.of_job(other).prepare.path)
    curves, weights = [], []
    for one in (job, other):
        (curve, *_) = run_distributed(train, workers, one, "pretrain")
        curves.append(dict(curve))
        weights.append(whole(run_distributed(local_state, workers, one, "pretrain")))
    assert min(curves[0]) == steps[late] + 1, "it goes on, and does not begin anew"
    for step, loss in curves[0].items():
        assert loss == pytest.approx(curves[1][step], rel=1e-6)
    for name, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][name], rtol=1e-5, atol=1e-7)


def test_a_stage_that_starts_from_one_that_has_seen_them_trains_again(tmp_path: Path) -> None:
    job = small_job(tmp_path, "recommend=null", "evaluate=null", "pretrain.steps=4",
                    "pretrain.checkpoint.every=4")  # fmt: skip
    run = write_small_data(job)
    run.job.write_text(dump_job(job))
    (run.prepare / "profile.json").write_json(
        {"interactions": 0, "users": 50, "rows_rejected": {}, "warnings": []}
    )
    for stage in ("pretrain", "finetune/rating"):
        run_distributed(train, 1, job, stage)
    (tmp_path / "gone.txt").write_text("u20\n")
    said: dict[str, Any] = forgetting.forget(job, str(tmp_path / "gone.txt"), retrain=True)
    assert said["runs"]["small"]["train_again"] == ["pretrain", "finetune/rating"]
    for stage in ("pretrain", "finetune/rating"):
        assert Checkpoints(run.training(stage) / "checkpoints").latest() is None


def test_a_run_that_starts_from_one_that_trains_again_trains_again(tmp_path: Path) -> None:
    """As a period does, whose own interactions may have nothing of the people."""
    job, run = small(tmp_path, f"pretrain.init_from={tmp_path}/before/pretrain")
    manifest = Manifest.load(run.prepare)
    own = Seen("pretrain", 8, None, 8, f"{tmp_path}/before/pretrain")
    assert untrain(job, run, manifest, [own], [f"{tmp_path}/other/pretrain"]) == []
    assert untrain(job, run, manifest, [own], [f"{tmp_path}/before/pretrain2"]) == []
    discarded = [f"{tmp_path}/before/pretrain"]
    assert untrain(job, run, manifest, [own], discarded) == ["pretrain"]
    assert discarded[1:] == [str(run.training("pretrain"))]


def test_the_runs_of_a_job(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.yaml").write_text(f"name: {name}\n{text}\n")

    period = "prepare: {{continues: {0}/{1}}}".format
    write("shop", "data_of: null")
    write("shop-seed-2", "data_of: shop")
    write("shop-period-0001", period(tmp_path, "shop"))
    write("shop-period-0002", period(tmp_path, "shop-period-0001"))
    write("shop-trial-a", "data_of: shop-period-0002")
    write("other", "data_of: null")
    write("other-period-0001", period("/elsewhere", "shop"))
    (tmp_path / "file").write_text("")
    wanted = {"shop", "shop-seed-2", "shop-period-0001", "shop-period-0002", "shop-trial-a"}
    for name in ("shop", "shop-seed-2"):
        job = small_job(tmp_path, f"name={name}")
        runs = related_runs(job)
        assert {run.root.name for run in runs} == wanted
        assert runs[0].root.name == name
