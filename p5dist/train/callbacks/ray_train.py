"""From a worker to the driver, and to Ray Train."""

from __future__ import annotations

from typing import Any

import ray
import ray.train
from ray.train import CheckpointUploadMode

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.observe.events import (
    Callback,
    Closed,
    Event,
    Logged,
    Saved,
    Skipped,
    Started,
    Validated,
)

_CLOSE_S = 5.0


class ForwardToDriver(Callback):
    """Sends events to the driver's monitor; the first worker has one. Not :class:`Trained`, which
    is large and happens in every step, and not :class:`Closed`, since the stage may continue with
    a new group of workers."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def on(self, event: Event) -> None:
        match event:
            case Started():
                ray.get(self._monitor.tell.remote(event))
            case Logged() | Validated() | Skipped() | Saved():
                self._monitor.tell.remote(event)
            case Closed():
                # Actor calls are ordered, so a reply means that every earlier event arrived; the
                # call times out if the monitor is dead.
                ray.wait([self._monitor.wants_stop.remote()], timeout=_CLOSE_S)


class ReportCheckpoints(Callback):
    """Reports every complete checkpoint to Ray Train, which restarts workers from the newest one.
    The report is a barrier: every worker has this callback."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def on(self, event: Event) -> None:
        match event:
            case Saved(step):
                folder = self._checkpoints.at(step)
                ray.train.report(
                    {"step": step},
                    ray.train.Checkpoint(folder.path, folder.fs),
                    checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
                )
