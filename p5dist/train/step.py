"""One step: forward, backward, update; and the numbers that the workers add up meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from p5dist.data.jagged import Ints
from p5dist.models.precision import dense_part
from p5dist.train.agreement import NUMBER_OF_FLAGS, Flags
from p5dist.train.batches import Ready
from p5dist.train.lookups import Lookups
from p5dist.train.meter import BACKWARD, FORWARD, INPUT, OPTIMIZER, Meter
from p5dist.train.session import Session


@dataclass(frozen=True)
class Totals:
    """The numbers of a step that all workers know."""

    flags: Flags
    losses: list[float]
    """[K] means over the global batch."""
    loss: float
    """The number that is minimised."""
    counted: tuple[float, float] = (0.0, 0.0)
    """Of a private step: users with a gradient, and those of them whose gradient was clipped."""


class Sum:
    """Numbers of a step on their way: they are added up over the workers beside the work that
    follows, and nothing waits for them before :meth:`read`.

    Args:
        numbers: of this worker, on the device of the stage.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._copied: Any = None
        self._work = dist.all_reduce(numbers, async_op=True)
        if numbers.is_cuda:
            self._copy()

    def _copy(self) -> None:
        """To pinned memory, on a stream of its own, so that the step does not wait for others."""
        side = _side_stream(self._numbers.device)
        with torch.cuda.stream(side):
            self._work.wait()
            on_host = torch.empty_like(self._numbers, device="cpu", pin_memory=True)
            on_host.copy_(self._numbers, non_blocking=True)
            self._numbers.record_stream(side)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        self._numbers = on_host

    def read(self) -> list[float]:
        """Wait for the sums."""
        if self._copied is None:
            self._work.wait()
        else:
            self._copied.synchronize()
        return list(self._numbers.tolist())


@cache
def _side_stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@dataclass
class Taken:
    """A step that was taken; its totals may still be on their way."""

    step: int
    rows: Ints
    """Row numbers of this worker's batch."""
    histories: int
    """Of the global batch."""
    lr: float
    sums: Sum
    applied: bool
    targets: bool
    """Whether any worker had a target."""
    private: bool = False

    @cached_property
    def totals(self) -> Totals:
        """The numbers of all workers; waits for them."""
        numbers = self.sums.read()
        flags, losses = numbers[:NUMBER_OF_FLAGS], numbers[NUMBER_OF_FLAGS:]
        counted = (0.0, 0.0)
        if self.private:
            *losses, users, clipped = losses
            counted = users, clipped
        return Totals(Flags(*flags), losses[:-1], losses[-1], counted)


def take_step(
    session: Session,
    lookups: Lookups,
    ready: Ready,
    following: Ready | None,
    meter: Meter,
    flags: Flags,
) -> Taken:
    """Take one step, and send the ids of the ``following`` batch on their way.

    The loss is the sum over the global batch divided by the global count, so that it does not
    depend on how the histories are spread over the workers. Gradients: each worker's sum is scaled
    by N / count, which undoes the mean over N workers in both DDP and TorchRec.

    The counts are known before the step and nothing in it waits for the loss, unless the job skips
    steps whose loss is not finite (``non_finite``): such a step must not reach the weights.
    """
    head, batch = session.inner.head, ready.arrive()
    targets = any(ready.counts)
    with meter.part(OPTIMIZER):
        lr = session.optimizers.prepare(ready.step)
    with meter.part(INPUT):
        lookups.begin(batch, following)
    with meter.part(FORWARD), dense_part(session.training.precision, session.device):
        sums = session.model(batch)
    with meter.part(INPUT):
        lookups.go_on()
    with meter.part("exchange"):
        counts = ready.counts
        per_target = _on(session.device, [1 / count if count else 0.0 for count in counts])
        own = _on(session.device, flags.values())
        sum_ = Sum(torch.cat([own, *_shares(session, sums, per_target)]))
        taken = Taken(ready.step, ready.rows, ready.histories, lr, sum_, True, targets)
        if session.training.non_finite.policy == "skip":
            taken.applied = math.isfinite(taken.totals.loss)
    if taken.applied and targets:
        with meter.part(BACKWARD):
            scale = per_target * dist.get_world_size()
            torch.autograd.backward(head.combine(sums * scale.to(sums.dtype)))
        with meter.part(OPTIMIZER):
            session.optimizers.step()
    return taken


def take_private_step(session: Session, ready: Ready, meter: Meter, flags: Flags) -> Taken:
    """Take a step with differential privacy; see :mod:`p5dist.train.private.step`."""
    private, alone = session.private, ready.alone
    assert private is not None and alone is not None
    with meter.part(OPTIMIZER):
        lr = session.optimizers.prepare(ready.step)
    with meter.part(FORWARD):
        found = private.add_up(alone)
    with meter.part("exchange"):
        per_target = _on(session.device, [1 / count if count else 0.0 for count in ready.counts])
        own = _on(session.device, flags.values())
        sum_ = Sum(torch.cat([own, *_shares(session, found.losses, per_target), found.counted]))
    with meter.part(OPTIMIZER):
        private.apply(ready.step, found.gradients)
    return Taken(
        ready.step, ready.rows, ready.histories, lr, sum_, True, any(ready.counts), private=True
    )


@torch.no_grad()
def _shares(session: Session, sums: Tensor, per_target: Tensor) -> tuple[Tensor, Tensor]:
    """This worker's shares [K] in the mean losses, and [1] in the number that is minimised. That is
    a linear function of the mean losses, whose constant counts on the first worker only; its
    factors may be trained, so it is computed before they change."""
    head, means = session.inner.head, sums.double() * per_target
    combined = head.combine(means)
    if dist.get_rank():
        combined = combined - head.combine(torch.zeros_like(means))
    return means, combined.reshape(1)


def _on(device: torch.device, numbers: list[float]) -> Tensor:
    """float64 on ``device``, without waiting for it."""
    made = torch.tensor(numbers, dtype=torch.float64)
    return made if device.type == "cpu" else made.pin_memory().to(device, non_blocking=True)
