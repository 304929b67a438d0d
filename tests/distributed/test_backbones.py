"""Every encoder, input and loss over the catalogue: the loss falls, every gradient is finite, two
workers have the curve of one, with all dropouts on."""

from __future__ import annotations

from pathlib import Path

import pytest

from p5dist.config import RunConfig
from tests.distributed.heads import curves
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

MODELS = {
    "rotary": ["model.encoder.positions=rotary", "model.encoder.layers=2"],
    "from the end, intervals": [
        "model.encoder={positions: learned_from_end, time_intervals: true}",
        "model.inputs={time_gap: true, calendar: true, event: true}",
    ],
    "hstu, user": ["model.encoder={kind: hstu}", "model.inputs={user_id: true, rating: true}"],
    "hstu, masked": [
        "model.encoder={kind: hstu, time_intervals: false}",
        "pretrain.objective={kind: masked, probability: 0.3}",
    ],
    "mean, cosine": [
        "model.encoder={kind: mean, last: 4, dropout: 0.1}",
        "model.cosine_temperature=0.1",
    ],
    "items dropped": ["model.inputs={item_dropout: 0.2, id_dropout: 0.2}"],
    "smoothed": ["pretrain.objective.loss={kind: softmax, label_smoothing: 0.1}"],
    "in-batch": [
        "pretrain.objective.loss={kind: sampled_softmax, negatives: 12, distribution: in_batch}"
    ],
    "mixed": [
        "pretrain.objective.loss={kind: sampled_softmax, negatives: 12, "
        "distribution: {in_batch: 1, uniform: 1, popularity: 2}}"
    ],
    "gbce": ["pretrain.objective.loss={kind: gbce, negatives: 9}"],
}


def job_of(name: str, folder: Path) -> RunConfig:
    job = small_job(
        folder / name, *MODELS[name], "prepare.source.columns.event=event", "pretrain.steps=24",
        "pretrain.tables.lr=0.2", "pretrain.dense.lr=1.0e-2", "pretrain.schedule.warmup_steps=4",
        "pretrain.batch_size=48",
    )  # fmt: skip
    write_small_data(job)
    return job


@pytest.fixture(scope="module")
def by_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple]]:
    found = []
    for workers in (1, 2):
        folder = tmp_path_factory.mktemp("run")
        jobs = {name: (job_of(name, folder), "pretrain") for name in MODELS}
        found.append(run_distributed(curves, workers, jobs)[0])
    return found


@pytest.mark.parametrize("name", MODELS)
def test_two_workers_have_the_curve_of_one(by_workers: list[dict[str, tuple]], name: str) -> None:
    (one, missing), (two, _) = (found[name] for found in by_workers)
    assert two[:5] == pytest.approx(one[:5], rel=1e-6)
    assert two == pytest.approx(one, rel=5e-5)  # rounding adds up, the fastest without softmax
    assert sum(one[-4:]) < sum(one[:4])
    assert not missing
