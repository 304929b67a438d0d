"""Between the workers, Ray Train's controller and the driver."""

from __future__ import annotations

from typing import Any, NamedTuple

import ray

from p5dist.observe.listener import Listener

_CLOSE_S = 5.0


class News(NamedTuple):
    """A call of a method of :class:`p5dist.train.following.Follower`."""

    method: str
    arguments: tuple[Any, ...]


class Monitor:
    """An actor that keeps news for the driver, and its requests for the workers."""

    def __init__(self) -> None:
        self._news: list[News] = []
        self._traces: dict[int, str] = {}
        self._error: Exception | None = None
        self._stop = False
        self._stopped_at: int | None = None

    def tell(self, method: str, *arguments: Any) -> None:
        """Something happened."""
        self._news.append(News(method, arguments))

    def news(self) -> list[News]:
        """What happened since the last call, in order."""
        told, self._news = self._news, []
        return told

    def raised(self, rank: int, trace: str) -> None:
        """The traceback of a worker that is about to end; Ray Train does not hand it on."""
        self._traces[rank] = trace

    def group_failed(self, reason: str, texts: dict[int, str]) -> None:
        """Workers failed; by rank what Ray Train says where the worker itself said nothing."""
        details = {rank: self._traces.get(rank, text) for rank, text in texts.items()}
        self._traces = {}
        self.tell("failed", reason, details)

    def give_up(self, error: Exception) -> None:
        """Training ended with an error that a restart cannot cure; the first one counts."""
        self._error = self._error or error

    def error(self) -> Exception | None:
        """That of :meth:`give_up`."""
        return self._error

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


class Relay(Listener):
    """Tells the driver; the first worker has one."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def log(self, values: dict[str, Any]) -> None:
        self._monitor.tell.remote("log", values)

    def validated(self, step: int, metric: str, value: float) -> None:
        self._monitor.tell.remote("validated", step, metric, value)

    def skipped(self, step: int, rows: list[list[int]]) -> None:
        self._monitor.tell.remote("skipped", step, rows)

    def saved(self, step: int, seconds: float) -> None:
        self._monitor.tell.remote("saved", step, seconds)

    def close(self) -> None:
        # Any answer comes after all that was told; a monitor that is gone gives none.
        ray.wait([self._monitor.wants_stop.remote()], timeout=_CLOSE_S)
