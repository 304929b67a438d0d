"""A trace of some steps on the first worker, to see the operators of a step."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from p5dist.config.train import Profile
from p5dist.observe.events import Callback, Closed, Event, Trained
from p5dist.storage import Folder

_OPERATORS = 40


class StepProfiler(Callback):
    """Writes ``<stage>/profile/step-<n>.json.gz`` (Chrome's trace format) and ``step-<n>.txt``
    (the operators that took most time); n steps had been taken when the trace begins.

    Args:
        stage: folder of the stage.
        begin: steps that had been taken when the workers started.
    """

    def __init__(self, config: Profile, stage: Folder, begin: int, device: torch.device) -> None:
        self._place = stage / "profile"
        self._first = begin + config.start
        self._last = self._first + config.steps
        self._on_gpu = device.type == "cuda"
        self._running: profile | None = None
        self._after(begin)

    def on(self, event: Event) -> None:
        match event:
            case Trained(step):
                self._after(step + 1)
            case Closed():  # possibly before the last step of the trace
                self._write()

    def _after(self, done: int) -> None:
        if self._running is not None:
            self._running.step()
        if done == self._first:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._on_gpu
            self._running = profile(activities=activities, acc_events=True)
            self._running.start()
        elif done == self._last:
            self._write()

    def _write(self) -> None:
        """End the trace and write it."""
        if self._running is None:
            return
        ended, self._running = self._running, None
        ended.stop()
        name = f"step-{self._first:08d}"
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder, "trace.json.gz")
            ended.export_chrome_trace(str(trace))
            (self._place / f"{name}.json.gz").write_bytes(trace.read_bytes())
        (self._place / f"{name}.txt").write_text(self._table(ended) + "\n")

    def _table(self, ended: Any) -> str:
        by = "self_cuda_time_total" if self._on_gpu else "self_cpu_time_total"
        table: str = ended.key_averages().table(sort_by=by, row_limit=_OPERATORS)
        return table
