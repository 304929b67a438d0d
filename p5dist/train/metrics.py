"""metrics.jsonl and TensorBoard events of a stage; the first worker writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from p5dist.storage import Folder

METRICS = "metrics.jsonl"
SKIPPED = "skipped.jsonl"


def read_metrics(stage: Folder) -> Iterator[dict[str, Any]]:
    """The logged steps of a stage, in order.

    A last line without its end is one that is being written, or that a killed worker left: it is
    not a logged step.
    """
    yield from _read(stage / METRICS)


def _read(place: Folder) -> Iterator[dict[str, Any]]:
    if place.exists():
        for line in place.read_bytes().decode().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


class MetricsWriter:
    """Appends one JSON object a logged step.

    Args:
        stage: folder of the stage.
        step: the run continues after this step; what was logged later is dropped, since those
            steps are taken again.
    """

    def __init__(self, stage: Folder, step: int) -> None:
        self._stage = stage
        self._place = stage / METRICS
        self._lines = [json.dumps(m) for m in read_metrics(stage) if m["step"] <= step]
        self._write_all()
        self._skipped = [s for s in _read(stage / SKIPPED) if s["step"] < step]
        self._events = None
        if stage.is_local:  # event files are appended to, which object stores cannot do
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(f"{stage.path}/events", purge_step=step + 1, flush_secs=10)

    def log(self, values: dict[str, Any]) -> None:
        """Write one logged step."""
        line = json.dumps(values)
        self._lines.append(line)
        if self._place.is_local:
            with open(self._place.path, "a") as f:  # noqa: PTH123
                f.write(line + "\n")
        if self._events is not None:
            for name in ("loss", "lr", "samples_per_second"):
                if values[name] is None:  # a step that was skipped
                    continue
                self._events.add_scalar(name, values[name], values["step"])

    def skipped(self, step: int, rows: list[list[int]]) -> None:
        """Write down a step (from 0) that was not applied, and the rows that each worker had."""
        self._skipped.append({"step": step, "rows": rows})
        text = "".join(json.dumps(line) + "\n" for line in self._skipped)
        (self._stage / SKIPPED).write_text(text)

    def flush(self) -> None:
        """Make everything logged so far visible in storage."""
        if not self._place.is_local:
            self._write_all()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush and end."""
        self.flush()
        if self._events is not None:
            self._events.close()

    def _write_all(self) -> None:
        self._place.write_text("".join(line + "\n" for line in self._lines))
