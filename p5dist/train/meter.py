"""What a step did with its time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Seconds by part since the last :meth:`take`; what is in no part is ``other``."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._parts: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside under ``name``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] += time.perf_counter() - begin

    def take(self) -> tuple[float, dict[str, float]]:
        """All seconds since the last call, and by part."""
        now = time.perf_counter()
        total = now - self._start
        parts = dict(self._parts)
        parts["other"] = max(total - sum(parts.values()), 0.0)
        self._start = now
        self._parts.clear()
        return total, {name: round(s, 6) for name, s in parts.items()}
