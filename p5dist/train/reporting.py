"""What a Ray Train worker tells the world around it, and hears from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
import ray.train
from ray.train import CheckpointUploadMode

from p5dist.data.jagged import Ints
from p5dist.observe.ledger import LedgerWriter
from p5dist.observe.listener import Listener
from p5dist.storage import Folder
from p5dist.train.control import Outside
from p5dist.train.session import Session

_ASK_EVERY_S = 0.25
_LOOK_EVERY_S = 2.0


class WorkerOutside(Outside):
    """Reports out, requests and notices in.

    Args:
        first: this is the first worker, which alone asks the monitor.
        listeners: are told everything.
    """

    def __init__(
        self,
        session: Session,
        place: Folder,
        monitor: Any,
        ledger: LedgerWriter | None,
        listeners: Sequence[Listener],
        *,
        first: bool,
    ) -> None:
        self._session = session
        self._place = place
        self._monitor = monitor
        self._ledger = ledger
        self._listeners = listeners
        self._first = first
        self._stop = False
        self._asked: Any = None
        self._next_question = 0.0
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        self._notice: Any = None

    def log(self, values: dict[str, Any]) -> None:
        for listener in self._listeners:
            listener.log(values)

    def trained(self, step: int, rows: Ints) -> None:
        for listener in self._listeners:
            listener.trained(step, rows)
        if self._ledger is not None:
            self._ledger.add(step, rows)

    def saving(self, step: int) -> None:
        for listener in self._listeners:
            listener.saving(step)
        if self._ledger is not None:
            self._ledger.flush(step)

    def validated(self, step: int, metric: str, value: float) -> None:
        for listener in self._listeners:
            listener.validated(step, metric, value)

    def skipped(self, step: int, rows: list[list[int]]) -> None:
        for listener in self._listeners:
            listener.skipped(step, rows)

    def saved(self, step: int, seconds: float) -> None:
        for listener in self._listeners:
            listener.saved(step, seconds)
        folder = self._session.saver.checkpoints.at(step)
        ray.train.report(
            {"step": step},
            ray.train.Checkpoint(folder.path, self._place.fs),
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()

    def stop(self) -> bool:
        """The first worker asks now and then, and never waits for the answer."""
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
