"""A worker is killed with SIGKILL in the middle of pre-training."""

from __future__ import annotations

from pathlib import Path

import pytest

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.observe.events import Callback, Closed, Event, Failed, Logged, Saved, Started
from p5dist.observe.metrics_log import read_metrics
from p5dist.train import driver
from tests.faults.jobs import losses_without_ray
from tests.faults.killable import KillOneWorker
from tests.small_data import small_job, write_small_data

STEPS = 120
JOB = (
    "feed.in_memory=0",
    f"pretrain.steps={STEPS}",
    "pretrain.checkpoint.every=20",
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
    job = small_job(tmp_path, *JOB)
    folder = write_small_data(job)
    stage = folder.training("pretrain")
    killer = KillOneWorker(stage, step=40)
    heard = Recorder()
    result = driver.run(job, folder, "pretrain", [heard])
    assert killer.killed_at is not None
    assert killer.killed_at < STEPS, "the worker was killed after the end"
    assert (result["steps"], result["restarts"]) == (STEPS, 1)
    assert Checkpoints(stage / "checkpoints").require().step == STEPS

    curve = {m["step"]: m["loss"] for m in read_metrics(stage)}
    assert list(curve) == list(range(1, STEPS + 1)), "a step is missing or twice"
    undisturbed = losses_without_ray(job, tmp_path / "undisturbed")
    assert list(curve.values()) == pytest.approx(undisturbed, rel=1e-5)

    assert curve == {e.step: e.loss for e in heard.events if isinstance(e, Logged)}
    starts = [type(e) for e in heard.events if isinstance(e, Started | Failed | Closed)]
    assert starts == [Started, Failed, Started, Closed]
    assert [e.step for e in heard.events if isinstance(e, Saved)][-1] == STEPS
