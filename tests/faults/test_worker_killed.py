"""A worker is killed with SIGKILL in the middle of pre-training."""

from __future__ import annotations

from pathlib import Path

import pytest

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.observe.events import Callback, Closed, Event, Failed, Logged, Saved, Started
from p5dist.observe.metrics_log import read_metrics
from p5dist.train import driver
from tests.faults.killable import KillOneWorker
from tests.small_data import small_job, write_small_data

STEPS = (
    "feed.in_memory=0",
    "pretrain.steps=300",
    "pretrain.checkpoint.every=40",
    "scale.workers=2",
)


class Recorder(Callback):
    """Keeps the events that the driver hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)


def test_the_run_goes_on_by_itself_with_the_losses_of_an_undisturbed_one(
    tmp_path: Path, ray_session: None
) -> None:
    curves = []
    for name in ("undisturbed", "killed"):
        job = small_job(tmp_path / name, *STEPS)
        folder = write_small_data(job)
        stage = folder.training("pretrain")
        killer = KillOneWorker(stage, step=100) if name == "killed" else None
        heard = Recorder()
        result = driver.run(job, folder, "pretrain", [heard])
        if killer is not None:
            assert killer.killed_at is not None
            assert killer.killed_at < 300, "the worker was killed after the end"
            assert result["restarts"] == 1
        else:
            assert result["restarts"] == 0
        assert result["steps"] == 300
        latest = Checkpoints(stage / "checkpoints").require()
        assert latest.step == 300
        curves.append([(m["step"], m["loss"]) for m in read_metrics(stage)])
        assert dict(curves[-1]) == {e.step: e.loss for e in heard.events if isinstance(e, Logged)}
        turns = [type(e) for e in heard.events if isinstance(e, Started | Failed | Closed)]
        assert turns == [Started, *[Failed, Started] * (killer is not None), Closed]
        assert [e.step for e in heard.events if isinstance(e, Saved)][-1] == 300
    undisturbed, killed = curves
    assert [step for step, _ in killed] == list(range(1, 301)), "a step is missing or twice"
    assert [loss for _, loss in killed] == pytest.approx(
        [loss for _, loss in undisturbed], rel=1e-5
    )
