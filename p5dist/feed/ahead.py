"""Batches are made in a thread ahead of the step that takes them, so that training does not wait
for reading and collating."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from p5dist.data.histories import Histories
from p5dist.errors import P5Error

BATCHES_AHEAD = 3
_PATIENCE_S = 10.0

Made = TypeVar("Made")
Make = Callable[[int, Histories, P5Error | None], Made]
"""Makes the batch of a step from this worker's histories; or from no histories and the reason why
there is no data from this step on."""


@contextmanager
def prefetch(
    steps: Iterator[tuple[int, Histories]],
    make: Make[Made],
    *,
    start: int,
    stop: int,
    ahead: int = BATCHES_AHEAD,
) -> Iterator[Iterator[Made]]:
    """The batches of the steps ``start`` … ``stop - 1`` in order, up to ``ahead`` of them made
    before they are asked for.

    ``make`` may exchange something with the other workers: every worker calls it for the same
    steps, also where its data cannot be read, and where training ends before ``stop`` (at the same
    step everywhere). The thread has ended when the context is left.

    Args:
        steps: (global step, this worker's histories). After a P5Error nothing more is taken.
        make: called in the thread.

    Raises:
        Exception: any error of ``make``, and any error of ``steps`` but a P5Error, when the batch
            is taken.
    """
    maker = _Maker(steps, make, start, stop, ahead)
    maker.start()
    try:
        yield iter(maker.take, None)
    finally:
        maker.end()


class _Maker(threading.Thread, Generic[Made]):
    def __init__(
        self,
        steps: Iterator[tuple[int, Histories]],
        make: Make[Made],
        start: int,
        stop: int,
        ahead: int,
    ) -> None:
        super().__init__(name="feed", daemon=True)
        self._steps, self._make = steps, make
        self._range = range(start, stop)
        self._ready: deque[Made | None] = deque()
        self._changed = threading.Condition()
        self._allowed = start + ahead  # batches before this step may be made
        self._ending = False
        self._failure: BaseException | None = None

    def take(self) -> Made | None:
        """The next batch; None after the last one."""
        with self._changed:
            self._allowed += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ready or self._failure)
            if self._ready:
                return self._ready.popleft()
            assert self._failure is not None
            raise self._failure

    def end(self) -> None:
        """Make only the batches allowed so far, the same number on all workers."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self.join(_PATIENCE_S)

    def run(self) -> None:
        try:
            error: P5Error | None = None
            for step in self._range:
                if not self._may_make(step):
                    return
                histories = Histories.empty()
                if error is None:
                    try:
                        at, histories = next(self._steps, (-1, histories))
                        assert at == step
                    except P5Error as e:
                        error = e
                self._put(self._make(step, histories, error))
            self._put(None)
        except BaseException as e:
            with self._changed:
                self._failure = e
                self._changed.notify_all()

    def _may_make(self, step: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: step < self._allowed or self._ending)
            return step < self._allowed

    def _put(self, ready: Made | None) -> None:
        with self._changed:
            self._ready.append(ready)
            self._changed.notify_all()
