"""Every objective, task, encoder, input and loss over the catalogue: the losses equal small.json
and fall, every gradient is finite, and two workers have the losses of one worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.cases import MODELS, OBJECTIVES, STEPS, TASKS, small_cases
from tests.golden.losses import SMALL, TOLERANCE, WORKERS, Curves, difference, read, train


@pytest.fixture(scope="module")
def by_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Curves]:
    return {
        workers: train(small_cases(tmp_path_factory.mktemp(str(workers))), workers)
        for workers in WORKERS
    }


@pytest.mark.parametrize("name", [*OBJECTIVES, *TASKS, *MODELS])
def test_the_losses_are_those_written_down(by_workers: dict[int, Curves], name: str) -> None:
    for workers, found in by_workers.items():
        golden = read(SMALL)[str(workers)][name]
        assert difference(golden, found[name][0]) < TOLERANCE, f"{workers} workers"


@pytest.mark.parametrize("name", [*OBJECTIVES, *TASKS, *MODELS])
def test_a_training_learns_the_same_on_one_and_two_workers(
    by_workers: dict[int, Curves], name: str
) -> None:
    (one, without), (two, _) = (found[name] for found in by_workers.values())
    assert not without, "parameters without a finite gradient"
    assert len(one) == STEPS
    assert sum(one[-6:]) < 0.98 * sum(one[:6]), "nothing was learned"
    assert two[:5] == pytest.approx(one[:5], rel=1e-6)
    assert two == pytest.approx(one, rel=5e-5)  # rounding adds up


def test_a_changed_loss_is_found() -> None:
    golden = read(SMALL)["1"]["masked"]
    assert difference(golden, golden) == 0
    assert difference(golden, [*golden[:-1], golden[-1] * 1.001]) > TOLERANCE
    assert difference(golden, golden[:-1]) == float("inf")


def test_every_loss_is_a_whole_curve(tmp_path: Path) -> None:
    """A golden file cut short would prove nothing."""
    for losses in read(SMALL).values():
        assert losses.keys() == small_cases(tmp_path).keys()
        assert {len(curve) for curve in losses.values()} == {STEPS}
