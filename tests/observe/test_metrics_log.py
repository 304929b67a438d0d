"""metrics.jsonl after a restart."""

from __future__ import annotations

from pathlib import Path

from p5dist.observe.events import Closed, Logged
from p5dist.observe.metrics_log import MetricsWriter, read_metrics
from p5dist.storage import Folder


def logged(step: int, loss: float) -> Logged:
    return Logged(step, 0, loss, lr=0.1, samples_per_second=1.0, seconds={})


def test_steps_after_the_checkpoint_are_dropped_since_they_are_taken_again(tmp_path: Path) -> None:
    stage = Folder.open(str(tmp_path))
    first = MetricsWriter(stage, 0)
    for step in range(1, 6):
        first.on(logged(step, float(step)))
    first.on(Closed())
    second = MetricsWriter(stage, 3)
    second.on(logged(4, 40.0))
    second.on(Closed())
    found = [(m["step"], m["loss"]) for m in read_metrics(stage)]
    assert found == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_stage_that_has_not_begun(tmp_path: Path) -> None:
    assert list(read_metrics(Folder.open(str(tmp_path)))) == []


def test_a_line_that_is_still_being_written_is_not_a_logged_step(tmp_path: Path) -> None:
    stage = Folder.open(str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert list(read_metrics(stage)) == [{"step": 1, "loss": 0.5}]

    MetricsWriter(stage, step=2).on(Closed())
    assert list(read_metrics(stage)) == [{"step": 1, "loss": 0.5}]
