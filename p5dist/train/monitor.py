"""Between the first worker and the driver."""

from __future__ import annotations

from typing import Any


class Monitor:
    """An actor that the first worker tells how far it is, and the driver asks."""

    def __init__(self) -> None:
        self._progress: dict[str, Any] = {}
        self._starts = 0
        self._error: Exception | None = None
        self._stop = False
        self._stopped_at: int | None = None

    def started(self, step: int, total: int, workers: int, plan: dict[str, Any]) -> None:
        """The worker group begins after ``step`` steps."""
        self._starts += 1
        self._progress |= {"step": step, "total": total, "workers": workers, "plan": plan}

    def update(self, values: dict[str, Any]) -> None:
        """A logged step."""
        self._progress |= values

    def failed(self, error: Exception) -> None:
        """Training ended with an error that a restart cannot cure; the first one counts."""
        self._error = self._error or error

    def ask_to_stop(self) -> None:
        """The job is asked to end after a checkpoint."""
        self._stop = True

    def wants_stop(self) -> bool:
        """Whether it was."""
        return self._stop

    def stopped(self, step: int) -> None:
        """The worker group ended as it was asked to, with a checkpoint after ``step`` steps."""
        self._stopped_at = step

    def stopped_at(self) -> int | None:
        """The step of :meth:`stopped`; None where the stage goes on or is at its end."""
        return self._stopped_at

    def state(self) -> tuple[dict[str, Any], int, Exception | None]:
        """Latest figures, starts of the worker group, and the error that ended it."""
        return self._progress, self._starts, self._error
