"""What all workers must act on at the same step.

A worker may learn something alone: it is asked to end, its data cannot be read, its checkpoint
cannot be written. If it acted alone the others would wait for it. So every worker puts what it
knows into the exchange that each step has anyway, and all see the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from p5dist.errors import TrainingError
from p5dist.observe.listener import Listener

if TYPE_CHECKING:
    from torch import Tensor  # the monitor's process has no use for PyTorch


@dataclass
class Events:
    """What a worker knows; after the exchange, what all know."""

    stop: float = 0.0
    """Workers that are asked to end after a checkpoint."""
    problem: float = 0.0
    """Workers that cannot go on."""
    look: float = 0.0
    """Workers that find it time to ask for a preemption notice."""
    completed: float = 0.0
    """Step of the newest complete checkpoint; only the first worker knows it."""

    def values(self) -> list[float]:
        """One number an event, to be summed over the workers."""
        return [getattr(self, field.name) for field in fields(self)]

    @classmethod
    def agreed(cls, sums: Tensor) -> Events:
        """From the sums over the workers of :meth:`values`."""
        return cls(*sums.tolist())


NUMBER_OF_EVENTS = len(fields(Events))


class OtherWorkerError(TrainingError):
    """Another worker cannot go on and says why; this one ends in order."""


class Outside(Listener):
    """What the steps of a stage tell and ask the world around them; called on every worker."""

    def stop(self) -> bool:
        """Whether this worker is asked to end after a checkpoint."""
        return False

    def look(self) -> bool:
        """Whether it is time to ask for a preemption notice."""
        return False

    def preempted(self) -> bool:
        """Whether a new notice says that a node goes away; all workers ask at the same step."""
        return False
