"""The entries about workers in the result of a stage."""

from __future__ import annotations

from typing import Any

from p5dist.observe.events import Callback, Event, Started


class Summary(Callback):
    """Counts the starts of the workers, and keeps how the last group of workers was made up."""

    def __init__(self) -> None:
        self.starts = 0
        self.workers: int | None = None
        self.plan: dict[str, Any] | None = None

    def on(self, event: Event) -> None:
        match event:
            case Started():
                self.starts += 1
                self.workers, self.plan = event.workers, event.plan
