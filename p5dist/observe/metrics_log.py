"""metrics.jsonl and TensorBoard events of a stage; the first worker writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from p5dist.observe.listener import Listener
from p5dist.storage import Folder

METRICS = "metrics.jsonl"
SKIPPED = "skipped.jsonl"
VALIDATION = "validation.jsonl"
DATA = "data"
"""Part of the seconds of a logged step that its worker waited for data."""


def read_metrics(stage: Folder) -> list[dict[str, Any]]:
    """The logged steps of a stage, each once, by rising step.

    After a restart steps are logged again: the later line counts. A line that a killed worker left
    half-written is passed over.
    """
    by_step = {line["step"]: line for line in _read(stage / METRICS)}
    return [by_step[step] for step in sorted(by_step)]


def _read(place: Folder) -> Iterator[dict[str, Any]]:
    """The lines that are whole JSON objects with a step."""
    if not place.exists():
        return
    for line in place.read_bytes().split(b"\n")[:-1]:  # the last one has no end: being written
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            yield values


def read_validation(stage: Folder) -> list[dict[str, Any]]:
    """The validations of a stage in order: step, metric, value."""
    return list(_read(stage / VALIDATION))


def _lines(values: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


class MetricsWriter(Listener):
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
        self._validated = [v for v in _read(stage / VALIDATION) if v["step"] <= step]
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
        (self._stage / SKIPPED).write_text(_lines(self._skipped))

    def validated(self, step: int, metric: str, value: float) -> None:
        """Write down the validation after ``step`` steps."""
        self._validated.append({"step": step, "metric": metric, "value": value})
        (self._stage / VALIDATION).write_text(_lines(self._validated))
        if self._events is not None:
            self._events.add_scalar(f"validation/{metric}", value, step)

    def saved(self, step: int, seconds: float) -> None:
        """Make everything logged so far visible in storage."""
        self._flush()

    def _flush(self) -> None:
        if not self._place.is_local:
            self._write_all()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush and end."""
        self._flush()
        if self._events is not None:
            self._events.close()

    def _write_all(self) -> None:
        self._place.write_text("".join(line + "\n" for line in self._lines))
