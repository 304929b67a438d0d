"""What runs in a Ray Train worker."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.data import DataIterator
from ray.train import CheckpointUploadMode

from p5dist.config import parse_job
from p5dist.console import console
from p5dist.errors import P5Error
from p5dist.feed.histories import Ints
from p5dist.feed.ledger import LedgerWriter
from p5dist.feed.stream import LaneStream
from p5dist.feed.units import UnitReader
from p5dist.manifest import Manifest
from p5dist.storage import Folder, RunFolder
from p5dist.train.control import OtherWorkerError, Outside
from p5dist.train.loop import run_steps
from p5dist.train.metrics import MetricsWriter
from p5dist.train.session import Session, open_session
from p5dist.train.sharding import describe
from p5dist.train.validation import make_validator

FEED = "train"
STARTS = "starts.json"

_ASK_EVERY_S = 0.25
_LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Feed:
    """What every worker's stream is made of; Ray Train carries it as its dataset."""

    readers: tuple[UnitReader, ...]
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
                name: LaneStream(feed.readers, rank, world_size, feed.unit_rows, feed.read_ahead)
                for name, feed in datasets.items()
            }
            for rank in range(world_size)
        ]


def read_starts(stage: Folder) -> list[dict[str, Any]]:
    """Every start of the workers of a stage: attempt, step after which it goes on, workers, and the
    times (Unix seconds) when the first worker was entered and had its state."""
    place = stage / STARTS
    return list(place.read_json()) if place.exists() else []


class Monitor:
    """An actor that the first worker tells how far it is, and the driver asks."""

    def __init__(self) -> None:
        self._progress: dict[str, Any] = {}
        self._starts = 0
        self._error: Exception | None = None
        self._stop = False
        self._stopped_at: int | None = None

    def started(self, step: int, total: int, workers: int, plan: dict[str, Any]) -> None:
        """The worker group begins after ``step`` steps."""
        self._starts += 1
        self._progress |= {"step": step, "total": total, "workers": workers, "plan": plan}

    def update(self, values: dict[str, Any]) -> None:
        """A logged step."""
        self._progress |= values

    def failed(self, error: Exception) -> None:
        """Training ended with an error that a restart cannot cure; the first one counts."""
        self._error = self._error or error

    def ask_to_stop(self) -> None:
        """The job is asked to end after a checkpoint."""
        self._stop = True

    def wants_stop(self) -> bool:
        """Whether it was."""
        return self._stop

    def stopped(self, step: int) -> None:
        """The worker group ended as it was asked to, with a checkpoint after ``step`` steps."""
        self._stopped_at = step

    def stopped_at(self) -> int | None:
        """The step of :meth:`stopped`; None where the stage goes on or is at its end."""
        return self._stopped_at

    def state(self) -> tuple[dict[str, Any], int, Exception | None]:
        """Latest figures, starts of the worker group, and the error that ended it."""
        return self._progress, self._starts, self._error


def train_worker(config: dict[str, Any]) -> None:
    """Train one stage; called by Ray Train on every worker.

    Args:
        config: ``job`` (text of the resolved job), ``stage``, ``threads``, ``monitor`` (actor).
    """
    entered = time.time()
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
        workers = ray.train.get_context().get_world_size()
        (place / "plan.json").write_json(plan)
        starts = read_starts(place)
        starts.append(
            {
                "attempt": session.saver.attempt, "step": session.start, "workers": workers,
                "entered": entered, "restored": time.time(),
            }
        )  # fmt: skip
        (place / STARTS).write_json(starts)
        ray.get(monitor.started.remote(session.start, session.total, workers, plan))

    ledger = None
    if session.training.ledger:
        rank = ray.train.get_context().get_world_rank()
        ledger = LedgerWriter(place, attempt=session.saver.attempt, start=session.start, rank=rank)
    outside = _Outside(session, place, monitor, writer, ledger)
    stream = ray.train.get_dataset_shard(FEED)
    try:
        finished = run_steps(session, stream, outside, make_validator(session, folder))
        if first and not finished:
            ray.get(monitor.stopped.remote(session.saver.completed))
    except OtherWorkerError:
        pass
    except P5Error as e:
        # All workers end in order at the same step, and no restart would cure it: tell.
        ray.get(monitor.failed.remote(e))
    finally:
        session.saver.close()
        if writer is not None:
            writer.close()


class _Outside(Outside):
    """Metrics and reports out, requests and notices in."""

    def __init__(
        self,
        session: Session,
        place: Folder,
        monitor: Any,
        writer: MetricsWriter | None,
        ledger: LedgerWriter | None,
    ) -> None:
        self._session = session
        self._place = place
        self._monitor = monitor
        self._writer = writer
        self._ledger = ledger
        self._stop = False
        self._asked: Any = None
        self._next_question = 0.0
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        self._notice: Any = None

    def log(self, values: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.log(values)
            self._monitor.update.remote(values)

    def trained(self, step: int, rows: Ints) -> None:
        if self._ledger is not None:
            self._ledger.add(step, rows)

    def saving(self, step: int) -> None:
        if self._ledger is not None:
            self._ledger.flush(step)

    def validated(self, step: int, metric: str, value: float) -> None:
        if self._writer is not None:
            self._writer.validated(step, metric, value)
            self._monitor.update.remote({"validation": f"{metric} {value:.4f}"})

    def skipped(self, step: int, rows: list[list[int]]) -> None:
        if self._writer is not None:
            self._writer.skipped(step, rows)

    def saved(self, step: int) -> None:
        if self._writer is not None:
            self._writer.flush()
        folder = self._session.saver.checkpoints.at(step)
        ray.train.report(
            {"step": step},
            ray.train.Checkpoint(folder.path, self._place.fs),
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    def stop(self) -> bool:
        """The first worker asks now and then, and never waits for the answer."""
        if self._writer is None or self._stop:
            return self._stop
        if self._asked is not None:
            ready, _ = ray.wait([self._asked], timeout=0)
            if ready:
                self._stop = ray.get(self._asked)
                self._asked = None
        elif time.monotonic() > self._next_question:
            self._asked = self._monitor.wants_stop.remote()
            self._next_question = time.monotonic() + _ASK_EVERY_S
        return self._stop

    def look(self) -> bool:
        """Not at every step: the question is a barrier of some milliseconds."""
        if self._writer is None or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        return True

    def preempted(self) -> bool:
        notice = ray.train.get_preemption_info()
        new = notice is not None and notice != self._notice
        self._notice = notice
        return new
