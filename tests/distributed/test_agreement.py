"""Decisions that depend on one worker (errors, skipped steps, stopping) are taken by all workers at
the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p5dist.errors import ShardError, TrainingError
from p5dist.train.agreement import OtherWorkerError
from tests.distributed.agreeing import BAD_STEPS, run
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data


def on_two_workers(folder: Path, *overrides: str, **what: Any) -> list[dict[str, Any]]:
    job = small_job(folder, *overrides)
    if not (folder / "small/prepare").exists():
        write_small_data(job)
    return run_distributed(_run, 2, job, what)


def _run(job: Any, what: dict[str, Any]) -> dict[str, Any]:
    return run(job, **what)


def test_data_that_one_worker_cannot_read_ends_all_of_them(tmp_path: Path) -> None:
    first, last = on_two_workers(tmp_path, broken=True)
    assert isinstance(last["error"], ShardError)
    assert isinstance(first["error"], OtherWorkerError)
    assert first["losses"] == last["losses"]


def test_a_loss_that_is_not_finite_stops_all_workers_and_names_the_rows(tmp_path: Path) -> None:
    results = on_two_workers(tmp_path, bad_steps=BAD_STEPS)
    rows = sorted(results[0]["rows"].get(7, []) + results[1]["rows"].get(7, []))
    assert rows == []  # the step was not taken
    for result in results:
        assert isinstance(result["error"], TrainingError)
        assert "step 7" in str(result["error"])
        assert [step for step, _ in result["losses"]] == list(range(1, 8))
    assert str(results[0]["error"]) == str(results[1]["error"])


def test_it_may_be_skipped(tmp_path: Path) -> None:
    """The same steps on both workers, with the rows of each."""
    skip = "pretrain.non_finite={policy: skip, budget: 2}"
    first, last = on_two_workers(tmp_path, skip, bad_steps=BAD_STEPS)
    assert first["finished"]
    assert last["finished"]
    assert [step for step, _ in first["skipped"]] == list(BAD_STEPS)
    assert first["skipped"] == last["skipped"]
    for step, rows in first["skipped"]:
        assert rows == [first["rows"][step], last["rows"][step]]
    losses = dict(first["losses"])
    assert losses[8] is None
    assert losses[9] is None
    assert all(losses[step] is not None for step in (1, 7, 10, 20))
    assert first["skipped_before"] == 2


def test_the_budget_counts_over_restarts(tmp_path: Path) -> None:
    skip = "pretrain.non_finite={policy: skip, budget: 2}"
    on_two_workers(tmp_path, skip, bad_steps=BAD_STEPS, stop_at=12)
    first, last = on_two_workers(tmp_path, skip, bad_steps=(15,))
    for result in (first, last):
        assert result["start"] > 9
        assert isinstance(result["error"], TrainingError)
        assert "2 steps may be skipped" in str(result["error"])


def test_a_request_that_one_worker_hears_stops_all_after_a_checkpoint(tmp_path: Path) -> None:
    whole = on_two_workers(tmp_path / "whole")[0]
    first, last = on_two_workers(tmp_path / "stopped", stop_at=7)
    assert not first["finished"]
    assert not last["finished"]
    assert first["complete"][-1] == last["complete"][-1] == 8
    continued = on_two_workers(tmp_path / "stopped")[0]
    assert continued["start"] == 8
    losses = first["losses"] + continued["losses"]
    assert [step for step, _ in losses] == list(range(1, 21))
    assert [x for _, x in losses] == pytest.approx([x for _, x in whole["losses"]], rel=1e-5)
