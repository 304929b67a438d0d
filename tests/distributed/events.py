"""What the processes of test_events.py run."""

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
from p5dist.train.loop import run_steps
from tests.distributed.stages import Recorder, open_stage

BAD_STEPS = (7, 8)


class Events(Recorder):
    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.skipped_steps: list[tuple[int, list[list[int]]]] = []
        self.complete: list[int] = []
        self.rows: dict[int, list[int]] = {}
        self.stop_at = stop_at

    def trained(self, step: int, rows: Any) -> None:
        self.rows[step] = rows.tolist()

    def skipped(self, step: int, rows: list[list[int]]) -> None:
        self.skipped_steps.append((step, rows))

    def saved(self, step: int, _: float) -> None:
        self.complete.append(step)

    def stop(self) -> bool:
        """Only the last worker knows."""
        last = dist.get_rank() == dist.get_world_size() - 1
        return last and self.stop_at is not None and len(self.lines) >= self.stop_at


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
    events = Events(stop_at)
    error: P5Error | None = None
    finished = False
    try:
        finished = run_steps(session, stream, events)
    except P5Error as e:
        error = e
    session.saver.close()
    state = {
        name: value.local_shards()[0].tensor.clone()
        for name, value in session.state().items()
        if hasattr(value, "local_shards") and value.local_shards()
    }
    return {
        "losses": [(line["step"], line["loss"]) for line in events.lines],
        "skipped": events.skipped_steps, "complete": events.complete, "rows": events.rows,
        "error": error, "finished": finished, "start": session.start, "state": state,
        "skipped_before": session.skipped,
    }  # fmt: skip
