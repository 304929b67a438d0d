"""What runs in a Ray Train worker."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
import ray.train
import torch

from p5dist.config import parse_job
from p5dist.data.manifest import Manifest
from p5dist.environment.console import console
from p5dist.errors import P5Error
from p5dist.observe.gauges import Gauges
from p5dist.observe.ledger import LedgerWriter
from p5dist.observe.listener import Listener
from p5dist.observe.metrics_log import MetricsWriter
from p5dist.storage import Folder, RunFolder
from p5dist.train.control import OtherWorkerError
from p5dist.train.handover import FEED
from p5dist.train.loop import run_steps
from p5dist.train.monitor import Relay
from p5dist.train.profiler import StepProfiler
from p5dist.train.reporting import WorkerOutside
from p5dist.train.session import Session, open_session
from p5dist.train.sharding import describe
from p5dist.train.validation import make_validator

STARTS = "starts.json"


def read_starts(stage: Folder) -> list[dict[str, Any]]:
    """Every start of the workers of a stage: attempt, step after which it goes on, workers, and the
    times (Unix seconds) when the first worker had its imports and when it had its state."""
    place = stage / STARTS
    return list(place.read_json()) if place.exists() else []


def train(config: dict[str, Any], rank: int) -> None:
    """All steps of one stage on worker ``rank``; for ``config`` see
    :func:`p5dist.train.handover.train_worker`."""
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
    session = open_session(job, stage, folder, Manifest.read(folder.prepare), device)
    listeners: list[Listener] = []
    if rank == 0:
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
        ray.get(monitor.tell.remote("started", session.start, session.total, workers, plan))
        listeners = [Relay(monitor), *_listeners(session, place, restarts=len(starts) - 1)]

    ledger = None
    if session.training.ledger:
        ledger = LedgerWriter(place, attempt=session.saver.attempt, start=session.start, rank=rank)
    outside = WorkerOutside(session, place, monitor, ledger, listeners, first=rank == 0)
    stream = ray.train.get_dataset_shard(FEED)
    try:
        finished = run_steps(session, stream, outside, make_validator(session, folder))
        if rank == 0 and not finished:
            ray.get(monitor.stopped.remote(session.saver.completed))
    except OtherWorkerError:
        pass
    except P5Error as e:
        # All workers end in order at the same step, and no restart would cure it: tell.
        ray.get(monitor.give_up.remote(e))
    finally:
        session.saver.close()
        outside.close()


def _listeners(session: Session, place: Folder, restarts: int) -> list[Listener]:
    """What the first worker writes and shows."""
    found: list[Listener] = [
        MetricsWriter(place, session.start),
        Gauges(session.job.name, session.stage, restarts),
    ]
    if session.training.profile is not None:
        config = session.training.profile
        found.append(StepProfiler(config, place, session.start, session.device))
    return found
