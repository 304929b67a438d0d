"""Flags that all workers agree on at each step.

A worker may learn something alone: the worker is asked to end, cannot read data, cannot write a
checkpoint. If the worker acted alone, the others would wait for it. So every worker puts its flags
into the exchange that each step has anyway, and all workers see the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from p5dist.errors import TrainingError


@dataclass
class Flags:
    """The flags of one worker; after the exchange, their sums over all workers."""

    stop: float = 0.0
    """Workers that are asked to end after a checkpoint."""
    problem: float = 0.0
    """Workers that cannot continue."""
    look: float = 0.0
    """Workers for which it is time to ask for a preemption notice."""
    completed: float = 0.0
    """Step of the newest complete checkpoint; only the first worker knows the step."""

    def values(self) -> list[float]:
        """One number a flag, to be summed over the workers."""
        return [getattr(self, field.name) for field in fields(self)]

    def with_later(self, other: Flags) -> Flags:
        """These flags and those of a later step together: whatever either of them says."""
        return Flags(*map(max, self.values(), other.values()))


NUMBER_OF_FLAGS = len(fields(Flags))


class OtherWorkerError(TrainingError):
    """Another worker cannot continue and raises the reason; this worker ends in order."""
