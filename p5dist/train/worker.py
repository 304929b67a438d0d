"""The code of a Ray Train worker."""

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
from p5dist.observe.events import Callback, Closed, Started, tell
from p5dist.observe.gauges import Gauges
from p5dist.observe.ledger import LedgerWriter
from p5dist.observe.metrics_log import MetricsWriter
from p5dist.storage import Folder, RunFolder
from p5dist.train.agreement import OtherWorkerError
from p5dist.train.callbacks.profiler import StepProfiler
from p5dist.train.callbacks.ray_train import ForwardToDriver, ReportCheckpoints
from p5dist.train.handover import FEED
from p5dist.train.loop import run_steps
from p5dist.train.requests import RayRequests
from p5dist.train.session import Session, open_session
from p5dist.train.sharding import describe
from p5dist.train.validation import make_validator

STARTS = "starts.json"


def read_starts(stage: Folder) -> list[dict[str, Any]]:
    """Every start of the workers of a stage: attempt, step after which it continues, workers, and
    the times (Unix seconds) when the first worker had its imports and when it had its state."""
    file = stage / STARTS
    return list(file.read_json()) if file.exists() else []


def train(config: dict[str, Any], rank: int) -> None:
    """All steps of one stage on worker ``rank``; for ``config`` see
    :func:`p5dist.train.handover.train_worker`."""
    entered = time.time()
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    console.quiet = True
    torch.set_num_threads(config["threads"])
    job = parse_job(config["job"])
    stage: str = config["stage"]
    folder = RunFolder.of_job(job)
    stage_folder = folder.training(stage)
    monitor = config["monitor"]
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where collectives of NCCL put objects
    session = open_session(job, stage, folder, Manifest.read(folder.prepare), device)
    plan = describe(session.model.plan)
    workers = ray.train.get_context().get_world_size()
    if rank == 0:
        (stage_folder / "plan.json").write_json(plan)
        starts = read_starts(stage_folder)
        starts.append(
            {
                "attempt": session.saver.attempt, "step": session.start, "workers": workers,
                "entered": entered, "restored": time.time(),
            }
        )  # fmt: skip
        (stage_folder / STARTS).write_json(starts)
    callbacks = make_callbacks(session, stage_folder, monitor, rank)
    tell(callbacks, Started(session.start, session.total, workers, plan))
    try:
        finished = run_steps(
            session,
            ray.train.get_dataset_shard(FEED),
            callbacks=callbacks,
            requests=RayRequests(monitor, first=rank == 0),
            validator=make_validator(session, folder),
        )
        if rank == 0 and not finished:
            ray.get(monitor.stopped.remote(session.saver.completed))
    except OtherWorkerError:
        pass
    except P5Error as e:
        # All workers end in order at the same step, and no restart would cure it: tell.
        ray.get(monitor.give_up.remote(e))
    finally:
        session.saver.close()
        tell(callbacks, Closed())


def make_callbacks(
    session: Session, stage_folder: Folder, monitor: Any, rank: int
) -> list[Callback]:
    """The callbacks of worker ``rank``; the first worker writes the files of the stage.

    Args:
        stage_folder: folder of the stage, with this start of the workers in ``starts.json``.
    """
    training = session.training
    found: list[Callback] = []
    if rank == 0:
        restarts = len(read_starts(stage_folder)) - 1
        found += [
            ForwardToDriver(monitor),
            MetricsWriter(stage_folder, session.start),
            Gauges(session.job.name, session.stage, restarts),
        ]
        if training.profile is not None:
            found.append(
                StepProfiler(training.profile, stage_folder, session.start, session.device)
            )
    if training.ledger:
        attempt = session.saver.attempt
        found.append(LedgerWriter(stage_folder, attempt=attempt, start=session.start, rank=rank))
    found.append(ReportCheckpoints(session.saver.checkpoints))
    return found
