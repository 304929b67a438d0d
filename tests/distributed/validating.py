"""Functions that the processes of test_validation.py run."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch.distributed as dist

from p5dist.config import RunConfig
from p5dist.feed.stream import LaneStream, read_here
from p5dist.inference import scorer
from p5dist.observe.events import Event, Validated
from p5dist.storage import RunFolder
from p5dist.train.loop import run_steps
from p5dist.train.session import Session
from p5dist.train.validation import make_validator
from tests.distributed.stages import Recorder, open_stage

Weights = dict[str, npt.NDArray[Any]]


class Validations(Recorder):
    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.validations: list[tuple[int, float]] = []
        self.weights: list[tuple[int, Weights]] = []

    def on(self, event: Event) -> None:
        super().on(event)
        if isinstance(event, Validated):
            self.validations.append((event.step, event.value))
            if dist.get_world_size() == 1:
                self.weights.append((event.step, weights_of(self.session)))


def weights_of(session: Session) -> Weights:
    """The weights on one worker."""
    found = {}
    for name, value in session.model.state_dict().items():
        whole = value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
        found[name] = whole.detach().clone().numpy()
    return found


def run(job: RunConfig, stage: str = "pretrain") -> dict[str, Any]:
    session = open_stage(job, stage)
    folder = RunFolder.of(job.storage, job.name)
    readers = session.mix.readers(job, session.training)
    stream = LaneStream(readers, dist.get_rank(), dist.get_world_size(), 10, 1, read_here)
    heard = Validations(session)
    alone = dist.get_world_size() == 1
    start = weights_of(session) if alone else {}
    validator = make_validator(session, folder)
    finished = run_steps(session, stream, callbacks=[heard], validator=validator)
    session.saver.close()
    average = {}
    if session.average is not None and alone:
        with session.average.in_place():
            average = weights_of(session)
    return {
        "losses": [(line["step"], line["loss"]) for line in heard.lines],
        "validations": heard.validations, "weights": heard.weights,
        "start": start, "average": average, "finished": finished,
    }  # fmt: skip


def run_in_small_blocks(job: RunConfig) -> dict[str, Any]:
    """:func:`run` with blocks of 7 items."""
    scorer.BLOCK = 7
    return run(job)
