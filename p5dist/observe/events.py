"""Events of a training stage, and the callbacks that receive them.

Each worker hands its events to its own callbacks; on the first worker one of the callbacks forwards
events to the driver, which hands them to the driver's callbacks. :class:`Failed` and
:class:`Stopping` come from the driver's side only. A step is counted in two ways: ``step`` of
:class:`Trained` and :class:`Skipped` is the number of a step from 0, everywhere else the number of
steps taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from p5dist.data.jagged import Ints


@dataclass(frozen=True)
class Started:
    """A group of workers begins, for the first time or after a failure."""

    step: int
    """Steps taken before."""
    total: int
    """Steps of the stage."""
    workers: int
    plan: dict[str, Any]
    """Sharding plan: which worker holds which part of which table; as in ``plan.json``."""


@dataclass(frozen=True)
class Logged:
    """Numbers of a logged step; the same on all workers except the seconds."""

    step: int
    """Steps taken."""
    epoch: int
    """Epoch of the run's own data, from 0."""
    loss: float | None
    """Loss of the global batch; None for a skipped step."""
    lr: float
    """Learning rate of the dense parameters."""
    samples_per_second: float
    """Histories per second, over all workers, since the preceding logged step."""
    seconds: dict[str, float]
    """Seconds of this worker since the preceding logged step, by part of a step."""
    losses: dict[str, float] = field(default_factory=dict)
    """Loss by name of the objective; empty if the stage has only one objective."""
    beside: dict[str, float] = field(default_factory=dict)
    """Seconds of this worker's work beside the steps since the preceding logged step: making their
    batches, with the sums of counts over the workers."""
    clipped: dict[str, list[int]] = field(default_factory=dict)
    """With privacy, since the preceding logged step and by epoch: users with a gradient, and those
    of them whose gradient was clipped."""


@dataclass(frozen=True)
class Validated:
    """The model was validated."""

    step: int
    """Steps taken."""
    metric: str
    value: float


@dataclass(frozen=True, eq=False)
class Trained:
    """This worker took a step, possibly a skipped step."""

    step: int
    """Number of the step, from 0."""
    rows: Ints
    """Row numbers of the histories of this worker's batch [B]."""


@dataclass(frozen=True)
class Skipped:
    """A step was not applied, since the loss was not finite."""

    step: int
    """Number of the step, from 0."""
    rows: list[list[int]]
    """By worker, the row numbers of the worker's batch."""


@dataclass(frozen=True)
class Saving:
    """A checkpoint begins."""

    step: int
    """Steps taken."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint is complete."""

    step: int
    """Steps that had been taken when the checkpoint began."""
    seconds: float
    """From the beginning of the checkpoint until the checkpoint was complete; 0 on a worker that
    does not know the time (all but the first)."""


@dataclass(frozen=True)
class Failed:
    """Workers failed. The workers may start again afterwards."""

    reason: str
    """One line."""
    details: dict[int, str]
    """Traceback or Ray's message, by rank of the failed worker."""


@dataclass(frozen=True)
class Stopping:
    """The job was asked to end after a checkpoint."""


@dataclass(frozen=True)
class Closed:
    """The last event: a callback writes out everything that it still holds."""


Event: TypeAlias = (
    Started | Logged | Validated | Trained | Skipped | Saving | Saved | Failed | Stopping | Closed
)


class Callback(Protocol):
    """Receives the events of a stage in order, and acts on some of them with ``match``.

    A worker waits for its callbacks inside a step, so a callback must be fast; an error of a
    callback ends the worker.
    """

    def on(self, event: Event) -> None:
        """An event happened; kinds of events that the callback does not know are ignored."""


def tell(callbacks: Iterable[Callback], event: Event) -> None:
    """Hand an event to several callbacks, one after the other."""
    for callback in callbacks:
        callback.on(event)
