"""The seconds of the steps of a stage, by part."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from torchrec.distributed.embedding_types import ShardedEmbeddingModule
from torchrec.distributed.types import Awaitable

from p5dist.observe.metrics_log import DATA

CHECKPOINT, OTHER = "checkpoint", "other"
FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"
INPUT, LOOKUP, OUTPUT = "input_distribution", "lookup", "output_distribution"
PARTS = (DATA, INPUT, LOOKUP, OUTPUT, FORWARD, BACKWARD, OPTIMIZER, CHECKPOINT)
"""Parts that are always reported, as is ``other``; a stage may have more."""


class Clock(Protocol):
    """Marks moments and measures the seconds between them; a moment on a stream may not have
    passed when it is marked."""

    def now(self) -> Any:
        """This moment."""

    def passed(self, moment: Any) -> bool:
        """Whether the moment has passed."""

    def wait(self, moment: Any) -> None:
        """Return once the moment has passed."""

    def between(self, first: Any, last: Any) -> float:
        """Seconds between two moments that have passed."""


class HostClock:
    """The clock of this process: an operation is complete when its call returns."""

    def now(self) -> float:
        return time.perf_counter()

    def passed(self, moment: float) -> bool:
        return True

    def wait(self, moment: float) -> None: ...

    def between(self, first: float, last: float) -> float:
        return last - first


class StreamClock:
    """The clock of the current stream of the GPU, which runs behind this process. Moments are
    events on the stream that may not have completed yet; only :meth:`Meter.take` synchronises. A
    wait of this process counts where it leaves the stream empty."""

    def now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def passed(self, moment: Any) -> bool:
        return bool(moment.query())

    def wait(self, moment: Any) -> None:
        moment.synchronize()

    def between(self, first: Any, last: Any) -> float:
        return float(first.elapsed_time(last)) / 1000


class Meter:
    """Seconds by part since the last :meth:`take`.

    - ``data``: waiting for the next batch
    - ``input_distribution``: ids to the workers that have their rows
    - ``lookup``: reading rows of the tables
    - ``output_distribution``: rows back to the workers that asked for them
    - ``forward``: the dense rest of the model, with the loss
    - ``exchange``: waiting for the sums of losses and flags over the workers, where they have not
      arrived one step later; the wait for the slowest worker is here, or in the distributions
    - ``backward``: of tables and dense part. The fused update of the tables, the way of their
      gradients back to the rows, and the mean of the dense gradients over the workers run inside
      and cannot be told apart.
    - ``optimizer``: of the dense part, and the learning rates
    - ``checkpoint``: what training stands still for: the copy, the wait for a save before it, the
      report of a complete one
    - ``average``, ``validation``: where the job has them
    - ``other``: the rest

    A moment counts for one part, the innermost; so they sum to the time that has passed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open = [OTHER]
        self._marks: deque[tuple[str, Any]] = deque()  # part that ended, and when
        self._last = clock.now()
        self._seconds = dict.fromkeys(PARTS, 0.0)

    @property
    def current(self) -> str:
        """The innermost part."""
        return self._open[-1]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside under ``name``."""
        depth = len(self._open)
        self.enter(name)
        try:
            yield
        finally:
            self._mark()
            del self._open[depth:]

    def enter(self, name: str) -> None:
        """A part inside the current one begins."""
        self._mark()
        self._open.append(name)

    def switch(self, name: str) -> None:
        """The current part ends where ``name`` begins."""
        self._mark()
        self._open[-1] = name

    def leave(self) -> None:
        """The current part ends."""
        self._mark()
        self._open.pop()

    def take(self) -> tuple[float, dict[str, float]]:
        """All seconds since the last call, and by part."""
        self._mark()
        if self._marks:
            self._clock.wait(self._marks[-1][1])
            self._settle()
        parts = self._seconds | {OTHER: self._seconds.get(OTHER, 0.0)}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return sum(parts.values()), {name: round(s, 6) for name, s in parts.items()}

    def _mark(self) -> None:
        self._marks.append((self.current, self._clock.now()))
        self._settle()

    def _settle(self) -> None:
        """Count the moments that have passed."""
        while self._marks and self._clock.passed(self._marks[0][1]):
            name, moment = self._marks.popleft()
            spent = self._clock.between(self._last, moment)
            self._seconds[name] = self._seconds.get(name, 0.0) + spent
            self._last = moment


def meter_for(device: torch.device) -> Meter:
    """A meter for operations on ``device``."""
    return Meter(StreamClock() if device.type == "cuda" else HostClock())


@contextmanager
def watch_tables(model: nn.Module, meter: Meter) -> Iterator[None]:
    """Split the time that the tables take inside ``forward`` (and nowhere else) by its parts.

    TorchRec gives out vectors before they have arrived; here they are waited for at once, as the
    models do.
    """
    handles = []
    for module in model.modules():
        if isinstance(module, ShardedEmbeddingModule):
            handles += [
                module.register_forward_pre_hook(partial(_begin, meter)),
                module.register_forward_hook(partial(_end, meter)),
            ]
            for name, inside in ((LOOKUP, module._lookups), (OUTPUT, module._output_dists)):
                handles += [
                    one.register_forward_pre_hook(partial(_go_on, meter, name)) for one in inside
                ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _begin(meter: Meter, *_: Any) -> None:
    if meter.current == FORWARD:
        meter.enter(INPUT)


def _go_on(meter: Meter, name: str, *_: Any) -> None:
    if meter.current in (INPUT, LOOKUP, OUTPUT):
        meter.switch(name)


def _end(meter: Meter, _: nn.Module, __: Any, vectors: Any) -> Any:
    if meter.current not in (INPUT, LOOKUP, OUTPUT):
        return None
    arrived = vectors.wait() if isinstance(vectors, Awaitable) else vectors
    meter.leave()
    return arrived
