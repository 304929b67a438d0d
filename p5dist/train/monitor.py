"""Between the workers, Ray Train's controller and the driver."""

from __future__ import annotations

from p5dist.observe.events import Event, Failed


class Monitor:
    """An actor that keeps events for the driver, and the driver's requests for the workers."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._traces: dict[int, str] = {}
        self._error: Exception | None = None
        self._stop = False
        self._stopped_at: int | None = None

    def tell(self, event: Event) -> None:
        """Something happened."""
        self._events.append(event)

    def events(self) -> list[Event]:
        """The events since the last call, in order."""
        told, self._events = self._events, []
        return told

    def raised(self, rank: int, trace: str) -> None:
        """The traceback of a worker that is about to end; Ray Train does not hand it on."""
        self._traces[rank] = trace

    def group_failed(self, reason: str, texts: dict[int, str]) -> None:
        """Workers failed; ``texts`` has by rank the message of Ray Train, used for workers that
        left no traceback."""
        details = {rank: self._traces.get(rank, text) for rank, text in texts.items()}
        self._traces = {}
        self.tell(Failed(reason, details))

    def give_up(self, error: Exception) -> None:
        """Training ends with an error that no restart heals; the first one counts."""
        self._error = self._error or error

    def error(self) -> Exception | None:
        """The error of :meth:`give_up`."""
        return self._error

    def ask_to_stop(self) -> None:
        """The job is asked to end after a checkpoint."""
        self._stop = True

    def wants_stop(self) -> bool:
        """Whether :meth:`ask_to_stop` was called."""
        return self._stop

    def stopped(self, step: int) -> None:
        """The worker group ended as it was asked to, with a checkpoint after ``step`` steps."""
        self._stopped_at = step

    def stopped_at(self) -> int | None:
        """The step of :meth:`stopped`; None while the stage runs and after its regular end."""
        return self._stopped_at
