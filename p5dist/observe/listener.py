"""What the steps of a training stage tell."""

from __future__ import annotations

from typing import Any

from p5dist.data.jagged import Ints


class Listener:
    """What the steps of a stage tell; here nobody listens."""

    def log(self, values: dict[str, Any]) -> None:
        """A logged step."""

    def validated(self, step: int, metric: str, value: float) -> None:
        """The model after ``step`` steps was validated."""

    def trained(self, step: int, rows: Ints) -> None:
        """This worker took ``step`` (from 0) with the histories ``rows`` (row numbers [B])."""

    def skipped(self, step: int, rows: list[list[int]]) -> None:
        """A step was not applied; the row numbers that each worker had."""

    def saving(self, step: int) -> None:
        """A checkpoint after ``step`` steps begins."""

    def saved(self, step: int, seconds: float) -> None:
        """The checkpoint after ``step`` steps is complete, so many seconds after it began (0 where
        this worker does not know)."""

    def close(self) -> None:
        """No step comes after this."""
