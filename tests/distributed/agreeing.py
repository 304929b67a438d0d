"""Functions that the processes of test_agreement.py run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from p5dist.config import RunConfig
from p5dist.data.histories import Histories
from p5dist.errors import P5Error, ShardError
from p5dist.feed.stream import LaneStream, read_here
from p5dist.feed.units import Unit, UnitReader
from p5dist.observe.events import Event, Saved, Skipped, Trained
from p5dist.train.loop import run_steps
from p5dist.train.requests import NoRequests
from tests.distributed.stages import Recorder, open_stage

BAD_STEPS = (7, 8)


class Heard(Recorder):
    """Keeps the events of a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[tuple[int, list[list[int]]]] = []
        self.complete: list[int] = []
        self.rows: dict[int, list[int]] = {}

    def on(self, event: Event) -> None:
        super().on(event)
        match event:
            case Trained(step, rows):
                self.rows[step] = rows.tolist()
            case Skipped(step, rows):
                self.skipped.append((step, rows))
            case Saved(step):
                self.complete.append(step)


class StopAfter(NoRequests):
    """Asks to stop once so many steps were logged."""

    def __init__(self, recorder: Recorder, steps: int | None) -> None:
        self.recorder = recorder
        self.steps = steps

    def stop(self) -> bool:
        return self.steps is not None and len(self.recorder.lines) >= self.steps


def broken_read(reader: UnitReader, plan: Iterable[Unit], _: int) -> Iterator[Histories]:
    """The last worker's second unit cannot be read."""
    for number, unit in enumerate(plan):
        if number == 1 and dist.get_rank() == dist.get_world_size() - 1:
            raise ShardError("a shard cannot be read", where="a file")
        yield reader.read(unit)


def run(
    job: RunConfig, *, bad_steps: tuple[int, ...] = (), broken: bool = False,
    stop_at: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train; in ``bad_steps`` the loss of the last worker is NaN. What happened on this worker."""
    session = open_stage(job, "pretrain")
    readers = session.mix.readers(job, session.training)
    read = broken_read if broken else read_here
    stream = LaneStream(readers, dist.get_rank(), dist.get_world_size(), 10, 1, read)
    head = session.inner.head
    forward = head.forward
    step = session.start - 1

    def spoilt(*args: Any) -> torch.Tensor:
        nonlocal step
        step += 1
        sums = forward(*args)
        last = dist.get_rank() == dist.get_world_size() - 1
        return sums * float("nan") if last and step in bad_steps else sums

    head.forward = spoilt
    heard = Heard()
    last = dist.get_rank() == dist.get_world_size() - 1
    requests = StopAfter(heard, stop_at if last else None)  # only the last worker knows
    error: P5Error | None = None
    finished = False
    try:
        finished = run_steps(session, stream, callbacks=[heard], requests=requests)
    except P5Error as e:
        error = e
    session.saver.close()
    state = {
        name: value.local_shards()[0].tensor.clone()
        for name, value in session.state().items()
        if hasattr(value, "local_shards") and value.local_shards()
    }
    return {
        "losses": [(line["step"], line["loss"]) for line in heard.lines],
        "skipped": heard.skipped, "complete": heard.complete, "rows": heard.rows,
        "error": error, "finished": finished, "start": session.start, "state": state,
        "skipped_before": session.skipped,
    }  # fmt: skip
