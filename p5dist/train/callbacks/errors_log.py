"""errors.log of a stage."""

from __future__ import annotations

import time
from contextlib import suppress

from p5dist.environment.redact import redact_text
from p5dist.errors import P5Error
from p5dist.observe.events import Callback, Event, Failed
from p5dist.storage import Folder
from p5dist.train.failures import ERRORS


class ErrorsLog(Callback):
    """Appends every failure of workers, with tracebacks.

    Args:
        stage: folder of the stage.
    """

    def __init__(self, stage: Folder) -> None:
        self._place = stage / ERRORS

    def on(self, event: Event) -> None:
        match event:
            case Failed(reason, details):
                self._append(reason, details)

    def _append(self, reason: str, details: dict[int, str]) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        parts = [f"{now} {reason}\n"]
        parts += [f"\nworker {rank}:\n{text.rstrip()}\n" for rank, text in sorted(details.items())]
        with suppress(P5Error, OSError):  # if the storage failed, training may still continue
            before = self._place.read_bytes().decode() if self._place.exists() else ""
            self._place.write_text(before + redact_text("".join(parts)) + "\n")
