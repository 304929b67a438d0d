"""What runs in a Ray Train worker."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.data import DataIterator
from ray.train import CheckpointUploadMode

from p5dist.config import parse_job
from p5dist.console import console
from p5dist.errors import CheckpointError, TrainingError
from p5dist.feed.stream import LaneStream
from p5dist.feed.units import UnitReader
from p5dist.manifest import Manifest
from p5dist.storage import RunFolder
from p5dist.train.loop import run_steps
from p5dist.train.metrics import MetricsWriter
from p5dist.train.session import open_session
from p5dist.train.sharding import describe

FEED = "train"


@dataclass(frozen=True)
class Feed:
    """What every worker's stream is made of; Ray Train carries it as its dataset."""

    reader: UnitReader
    unit_rows: int
    read_ahead: int


class LaneDataConfig(ray.train.DataConfig):  # type: ignore[misc]
    """Gives every worker the stream of its lanes, anew at each start of the worker group."""

    def configure(
        self, datasets: dict[str, Feed], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """One stream a rank; a position is not in it, each worker starts where its checkpoint
        says."""
        return [
            {
                name: LaneStream(feed.reader, rank, world_size, feed.unit_rows, feed.read_ahead)
                for name, feed in datasets.items()
            }
            for rank in range(world_size)
        ]


class Monitor:
    """An actor that the first worker tells how far it is, and the driver asks."""

    def __init__(self) -> None:
        self._progress: dict[str, Any] = {}
        self._starts = 0
        self._error: Exception | None = None

    def started(self, step: int, total: int, plan: dict[str, Any]) -> None:
        """The worker group begins after ``step`` steps."""
        self._starts += 1
        self._progress |= {"step": step, "total": total, "plan": plan}

    def update(self, values: dict[str, Any]) -> None:
        """A logged step."""
        self._progress |= values

    def failed(self, error: Exception) -> None:
        """Training ended with an error that a restart cannot cure."""
        self._error = error

    def state(self) -> tuple[dict[str, Any], int, Exception | None]:
        """Latest figures, starts of the worker group, and the error that ended it."""
        return self._progress, self._starts, self._error


def train_worker(config: dict[str, Any]) -> None:
    """Train one stage; called by Ray Train on every worker.

    Args:
        config: ``job`` (text of the resolved job), ``stage``, ``threads``, ``monitor`` (actor).
    """
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    console.quiet = True
    torch.set_num_threads(config["threads"])
    job = parse_job(config["job"])
    stage: str = config["stage"]
    folder = RunFolder.of(job.storage, job.name)
    place = folder.training(stage)
    monitor = config["monitor"]
    device = ray.train.torch.get_device()
    first = ray.train.get_context().get_world_rank() == 0
    session = open_session(job, stage, folder, Manifest.load(folder.prepare), device)
    writer = MetricsWriter(place, session.start) if first else None
    if first:
        plan = describe(session.model.plan)
        (place / "plan.json").write_json(plan)
        ray.get(monitor.started.remote(session.start, session.total, plan))

    def log(values: dict[str, Any]) -> None:
        if writer is not None:
            writer.log(values)
            monitor.update.remote(values)

    def saved(step: int) -> None:
        if writer is not None:
            writer.flush()
        checkpoint = ray.train.Checkpoint(
            (session.checkpoints.folder / f"step-{step:08d}").path, place.fs
        )
        ray.train.report(
            {"step": step}, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD
        )

    stream = ray.train.get_dataset_shard(FEED)
    try:
        run_steps(session, stream, log=log, saved=saved)
    except (TrainingError, CheckpointError) as e:
        # Raised on all workers alike, and no restart would cure it: end in order, and tell.
        ray.get(monitor.failed.remote(e))
    finally:
        if writer is not None:
            writer.close()
