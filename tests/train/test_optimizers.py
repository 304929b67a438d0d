"""Learning-rate schedules by hand."""

from __future__ import annotations

import pytest

from p5dist.config.train import Schedule
from p5dist.train.optimizers import factor


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
