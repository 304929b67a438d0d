"""The best checkpoint, and early stopping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Selection:
    """The best validation so far, and whether training should stop early."""

    patience: int | None
    best: float = float("-inf")
    since: int = 0
    """Validations since the best one."""

    def add(self, score: float) -> None:
        """A new score."""
        if score > self.best:
            self.best, self.since = score, 0
        else:
            self.since += 1

    @property
    def any(self) -> bool:
        """Whether there was a score."""
        return self.best > float("-inf")

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` validations in a row were not better than the best."""
        return self.patience is not None and self.since >= self.patience

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"best": None if self.best == float("-inf") else self.best, "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        """From :meth:`state`."""
        if state["best"] is not None:
            self.best, self.since = state["best"], state["since"]
