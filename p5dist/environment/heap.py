"""Freed memory that the C library keeps."""

from __future__ import annotations

import ctypes
import time

_EVERY_S = 60.0


class FreeMemory:
    """Gives freed memory back to the system now and then.

    Batches differ in size, so memory freed by one step seldom fits the next one: the heap of glibc
    gets holes and grows throughout training (MovieLens-1M, batches of 64: from 0.85 GB to 3.3 GB in
    10,000 steps, with half a GB in use), and so it does while users are scored (from 0.4 GB to
    1.7 GB in 20 portions of 8,192 users). Other C libraries have no such call; nothing happens with
    them.
    """

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._next = time.monotonic() + _EVERY_S

    def look(self) -> None:
        """To be called often."""
        if time.monotonic() > self._next:
            self.give_back()

    def give_back(self) -> None:
        """At once, which takes some milliseconds."""
        if self._trim is not None:
            self._trim(0)
        self._next = time.monotonic() + _EVERY_S
