"""metrics.jsonl and TensorBoard events of a stage; the first worker writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from p5dist.observe.events import Callback, Closed, Event, Logged, Saved, Skipped, Validated
from p5dist.storage import Folder

METRICS = "metrics.jsonl"
SKIPPED = "skipped.jsonl"
VALIDATION = "validation.jsonl"
DATA = "data"
"""Key in the seconds of a logged step: the time that the worker waited for data."""


def read_metrics(stage: Folder) -> list[dict[str, Any]]:
    """The logged steps of a stage, each once, by rising step.

    After a restart steps are logged again: the later line counts. A line that a killed worker left
    half-written is skipped.
    """
    by_step = {line["step"]: line for line in _read(stage / METRICS)}
    return [by_step[step] for step in sorted(by_step)]


def _read(file: Folder) -> Iterator[dict[str, Any]]:
    """The lines that are whole JSON objects with a step."""
    if not file.exists():
        return
    for line in file.read_bytes().split(b"\n")[:-1]:  # a last line without end is being written
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            yield values


def read_validation(stage: Folder) -> list[dict[str, Any]]:
    """The validations of a stage in order: step, metric, value."""
    return list(_read(stage / VALIDATION))


def line_of(logged: Logged) -> dict[str, Any]:
    """A logged step as a line of metrics.jsonl."""
    values = asdict(logged)
    return {name: value for name, value in values.items() if value != {} or name == "seconds"}


def _lines(values: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


class MetricsWriter(Callback):
    """Appends one JSON object per logged step; writes validations and skipped steps.

    Args:
        stage: folder of the stage.
        step: the run continues after this step; lines of later steps are dropped, since these steps
            are repeated.
    """

    def __init__(self, stage: Folder, step: int) -> None:
        self._stage = stage
        self._place = stage / METRICS
        self._lines = [json.dumps(m) for m in read_metrics(stage) if m["step"] <= step]
        self._write_all()
        self._skipped = [s for s in _read(stage / SKIPPED) if s["step"] < step]
        self._validated = [v for v in _read(stage / VALIDATION) if v["step"] <= step]
        self._tensorboard = None
        if stage.is_local:  # object stores cannot append to event files
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(
                f"{stage.path}/events", purge_step=step + 1, flush_secs=10
            )

    def on(self, event: Event) -> None:
        match event:
            case Logged():
                self._log(line_of(event))
            case Skipped():
                self._skipped.append(asdict(event))
                (self._stage / SKIPPED).write_text(_lines(self._skipped))
            case Validated():
                self._validated.append(asdict(event))
                (self._stage / VALIDATION).write_text(_lines(self._validated))
                if self._tensorboard is not None:
                    name = f"validation/{event.metric}"
                    self._tensorboard.add_scalar(name, event.value, event.step)
            case Saved():
                self._flush()
            case Closed():
                self._flush()
                if self._tensorboard is not None:
                    self._tensorboard.close()

    def _log(self, values: dict[str, Any]) -> None:
        line = json.dumps(values)
        self._lines.append(line)
        if self._place.is_local:
            with open(self._place.path, "a") as f:  # noqa: PTH123
                f.write(line + "\n")
        if self._tensorboard is not None:
            for name in ("loss", "lr", "samples_per_second"):
                if values[name] is None:  # a skipped step
                    continue
                self._tensorboard.add_scalar(name, values[name], values["step"])

    def _flush(self) -> None:
        """Make everything logged so far visible in storage."""
        if not self._place.is_local:
            self._write_all()
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def _write_all(self) -> None:
        self._place.write_text("".join(line + "\n" for line in self._lines))
