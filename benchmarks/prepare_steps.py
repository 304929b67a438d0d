"""Settings and the clock that all tools of prepare_peers.py share."""

from __future__ import annotations

import time

CORE = 5
GROUP_ROWS = 8192  # histories per row group, as in p5dist
LEVEL = 1  # of zstd; pyarrow's default, as in p5dist


class Steps:
    """Wall seconds by name of step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now
