"""Learning-rate schedules and the weight decay of tables, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from p5dist.config.train import Schedule
from p5dist.errors import ConfigError
from p5dist.train.optimizers import factor
from tests.distributed.stages import train, whole
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data
from tests.train.finetuning import before_and_after

RATE, DECAY = 0.1, 0.5
DECAYED = f"pretrain.tables={{lr: {RATE}, weight_decay: {DECAY}}}"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [0.5, 1.0, 1.0, 0.8828427, 0.6, 0.3171573, 0.2]),
    ],
)
def test_warm_up_and_decay(kind: str, expected: list[float]) -> None:
    schedule = Schedule(kind=kind, warmup_steps=2, final_fraction=0.2)
    assert [factor(schedule, step, 7) for step in range(7)] == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_ends_at_the_full_rate() -> None:
    schedule = Schedule(warmup_steps=100)
    assert [factor(schedule, step, 2) for step in range(2)] == [0.5, 1.0]


def after_a_step(folder: Path, tables: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of the items before and after one step, and row-wise Adagrad's sums of squares."""
    job = small_job(
        folder, "model.item_attributes=[]", "pretrain.steps=1", tables,
        "pretrain.schedule={kind: constant, warmup_steps: 0}",
    )  # fmt: skip
    write_small_data(job)
    before, after, _ = run_distributed(before_and_after, 1, job, "pretrain")[0]
    name = "backbone.items.ids.embeddings.item.weight"
    states = [whole([state]) for state in (before, after)]
    (squares,) = (v for n, v in states[1].items() if n.startswith("fused.") and name[:-7] in n)
    return states[0][f"model.{name}"], states[1][f"model.{name}"], squares


def test_weight_decay_pulls_the_rows_of_a_step(tmp_path: Path) -> None:
    """Row-wise Adagrad moves a row by rate · g / √(mean of g²), with g the gradient + decay · row.
    The gradient is known from a step without decay."""
    first, moved, squares = after_a_step(tmp_path / "plain", f"pretrain.tables={{lr: {RATE}}}")
    gradient = (first - moved) / RATE * squares.reshape(-1, 1).sqrt()
    begun, decayed, _ = after_a_step(tmp_path / "decayed", DECAYED)
    assert torch.equal(begun, first)
    touched = squares.reshape(-1) > 0
    assert touched.sum() > 20
    pulled = gradient + DECAY * first
    expected = first - RATE * pulled / pulled.square().mean(1, keepdim=True).sqrt()
    assert torch.allclose(decayed[touched], expected[touched], atol=1e-5)
    assert not torch.allclose(decayed[touched], moved[touched], atol=1e-3)


def test_an_optimizer_of_tables_that_the_cpu_does_not_have_is_refused(tmp_path: Path) -> None:
    job = small_job(tmp_path, "pretrain.tables.kind=adam")
    write_small_data(job)
    with pytest.raises(Exception, match=r"on CPU: rowwise_adagrad, sgd"):
        run_distributed(train, 1, job, "pretrain")


def test_weight_decay_that_would_not_be_applied_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs tables\.kind rowwise_adagrad"):
        small_job(tmp_path, "pretrain.tables={kind: sgd, weight_decay: 0.1}")
    job = small_job(tmp_path, DECAYED)
    write_small_data(job)
    with pytest.raises(Exception, match="on CPU no weight decay for: item_genre"):
        run_distributed(train, 1, job, "pretrain")
