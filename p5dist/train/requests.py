"""Requests that a worker asks for between two steps: to stop, to save before a node goes away."""

from __future__ import annotations

import time
from typing import Any, Protocol

import ray
import ray.train

_ASK_EVERY_S = 0.25
_LOOK_EVERY_S = 2.0


class Requests(Protocol):
    """Asked by the steps of a stage on every worker."""

    def stop(self) -> bool:
        """Whether this worker is asked to end after a checkpoint."""

    def look(self) -> bool:
        """Whether it is time to ask for a preemption notice."""

    def preempted(self) -> bool:
        """Whether there is a new preemption notice of a node; all workers ask at the same step."""


class NoRequests(Requests):
    """No request ever comes."""

    def stop(self) -> bool:
        return False

    def look(self) -> bool:
        return False

    def preempted(self) -> bool:
        return False


class RayRequests(Requests):
    """Requests of the driver, by way of its monitor, and notices of Ray Train.

    Args:
        first: this is the first worker, which alone asks the monitor.
    """

    def __init__(self, monitor: Any, *, first: bool) -> None:
        self._monitor = monitor
        self._first = first
        self._stop = False
        self._asked: Any = None
        self._next_question = 0.0
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        self._notice: Any = None

    def stop(self) -> bool:
        """The first worker asks every quarter of a second and never waits for the answer."""
        if not self._first or self._stop:
            return self._stop
        if self._asked is not None:
            ready, _ = ray.wait([self._asked], timeout=0)
            if ready:
                self._stop = ray.get(self._asked)
                self._asked = None
        elif time.monotonic() > self._next_question:
            self._asked = self._monitor.wants_stop.remote()
            self._next_question = time.monotonic() + _ASK_EVERY_S
        return self._stop

    def look(self) -> bool:
        """Not at every step: the question is a barrier of some milliseconds."""
        if not self._first or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        return True

    def preempted(self) -> bool:
        notice = ray.train.get_preemption_info()
        new = notice is not None and notice != self._notice
        self._notice = notice
        return new
