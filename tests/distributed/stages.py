"""A training stage without Ray, run by the processes of the distributed tests."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.feed.stream import LaneStream, read_here
from p5dist.observe.events import Callback, Event, Logged
from p5dist.observe.ledger import LedgerWriter
from p5dist.observe.metrics_log import line_of
from p5dist.storage import RunFolder
from p5dist.train.loop import run_steps
from p5dist.train.session import Session, open_session
from p5dist.train.validation import make_validator

Parts = list[tuple[torch.Tensor, list[int]]]


def open_stage(job: RunConfig, stage: str) -> Session:
    """On the GPU of this process if its group has NCCL."""
    folder = RunFolder.of_job(job)
    cuda = "nccl" in dist.get_backend_config()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    return open_session(job, stage, folder, Manifest.load(folder.prepare), device)


def train(job: RunConfig, stage: str) -> list[tuple[int, float]]:
    """Take the steps of ``stage`` from where it was left; (step, loss) of those taken."""
    return [(line["step"], line["loss"]) for line in run_session(job, stage)[1]]


def run_session(job: RunConfig, stage: str) -> tuple[Session, list[dict[str, Any]]]:
    """As :func:`train`; the session, and every logged line."""
    session = open_stage(job, stage)
    folder = RunFolder.of_job(job)
    readers = session.mix.readers(job, session.training)
    stream = LaneStream(readers, dist.get_rank(), dist.get_world_size(), 10, 1, read_here)
    recorder = Recorder()
    callbacks: list[Callback] = [recorder]
    if session.training.ledger:
        place, rank = folder.training(stage), dist.get_rank()
        callbacks.append(LedgerWriter(place, attempt=0, start=session.start, rank=rank))
    validator = make_validator(session, folder)
    run_steps(session, stream, callbacks=callbacks, validator=validator)
    session.saver.close()
    return session, recorder.lines


class Recorder(Callback):
    """Keeps the logged steps."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def on(self, event: Event) -> None:
        if isinstance(event, Logged):
            self.lines.append(line_of(event) | {"at": time.perf_counter()})


def local_state(job: RunConfig, stage: str) -> dict[str, tuple[list[int], Parts]]:
    """Every tensor of the stage's restored state: its shape and this worker's parts of it."""
    return {
        name: (
            list(value.size()),
            [
                (part.clone(), place)
                for part, place in (
                    ((s.tensor, s.metadata.shard_offsets) for s in value.local_shards())
                    if hasattr(value, "local_shards")
                    else [(value.detach(), [0] * value.dim())]
                )
            ],
        )
        for name, value in open_stage(job, stage).state().items()
    }


def whole(ranks: list[dict[str, tuple[list[int], Parts]]]) -> dict[str, torch.Tensor]:
    """The tensors that :func:`local_state` of all workers is the parts of."""
    tensors: dict[str, torch.Tensor] = {}
    for state in ranks:
        for name, (shape, parts) in state.items():
            target = tensors.setdefault(name, torch.full(shape, float("nan")))
            for part, place in parts:
                target[tuple(slice(o, o + n) for o, n in zip(place, part.shape))] = part  # noqa: B905
    return tensors
