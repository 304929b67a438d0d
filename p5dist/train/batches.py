"""The batches of a stage: made, counted over the workers, and moved to the device, all beside the
step that computes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from p5dist.data.batch import Batch
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.errors import P5Error
from p5dist.feed.ahead import prefetch
from p5dist.feed.stream import LaneStream
from p5dist.train.private.alone import Alone
from p5dist.train.session import Session


@dataclass(frozen=True)
class Ready:
    """A batch of a worker, and the numbers of the global batch."""

    step: int
    batch: Batch
    """On the device of the stage, once it has arrived."""
    error: P5Error | None
    """Why this worker has no data from this step on; the batch has no histories then."""
    problem: bool
    """Whether any worker has no data from this step on."""
    histories: int
    """Of all workers."""
    counts: list[float]
    """[K] divisors of the losses, of all workers together."""
    seconds: float
    """That it took to make the batch."""
    alone: Alone | None = None
    """The same histories, each as a batch of its own, for private fine-tuning."""
    copied: Any = None
    """Event on a stream of the device: the batch has arrived; None: it has."""

    @property
    def rows(self) -> Ints:
        """[B] row numbers of this worker's histories."""
        return self.batch.rows

    def arrive(self) -> Batch:
        """The batch; operations that the caller queues from now on find it on the device."""
        if self.copied is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.copied)
            self.batch.each(lambda tensor: tensor.record_stream(stream) or tensor)
        return self.batch


@contextmanager
def batches_of(session: Session, stream: LaneStream) -> Iterator[Iterator[Ready]]:
    """The batches of the steps from ``session.start`` on, in order; see :func:`.ahead.prefetch`."""
    start, stop = session.start, session.total
    with prefetch(stream.steps(start, stop), _Maker(session), start=start, stop=stop) as batches:
        yield batches


class _Maker:
    """Makes the batches in the thread of the feed."""

    def __init__(self, session: Session) -> None:
        self._session, self._workers = session, dist.get_world_size()
        self._copies: Any = None
        if session.device.type == "cuda":
            self._copies = torch.cuda.Stream(session.device)  # type: ignore[no-untyped-call]

    def __call__(self, step: int, histories: Histories, error: P5Error | None) -> Ready:
        session, began = self._session, time.perf_counter()
        candidates, log_q = (None, None)
        if session.candidates is not None:
            candidates, log_q = session.candidates.at(step, histories)
        batch = session.collate(histories, step=step, candidates=candidates, candidate_log_q=log_q)
        by_worker = [0.0] * self._workers
        by_worker[dist.get_rank()] = float(batch.histories)
        own = [float(error is not None), *by_worker, *session.inner.head.counts(batch)]
        problems, *rest = session.host.add_numbers(own)
        by_worker, counts = rest[: self._workers], rest[self._workers :]
        alone = None
        if session.private is not None:
            most = int(max(by_worker))
            alone = Alone(histories, step, session.collate, candidates, log_q, most)
        batch, copied = self._move(batch)
        seconds = time.perf_counter() - began
        number = int(sum(by_worker))
        return Ready(step, batch, error, problems > 0, number, counts, seconds, alone, copied)

    def _move(self, batch: Batch) -> tuple[Batch, Any]:
        """The batch on its way to the device, and the event that it has arrived."""
        if self._copies is None:
            return batch, None
        with torch.cuda.stream(self._copies):
            pinned = batch.each(lambda tensor: tensor.pin_memory())
            moved = pinned.to(self._session.device)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        return moved, copied
