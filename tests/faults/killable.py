"""A small job on real Ray Train workers, and functions that kill a worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil

from p5dist.observe.metrics_log import read_metrics
from p5dist.storage import Folder


def train_workers() -> list[psutil.Process]:
    """The Ray Train worker processes below this one, oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            name = " ".join(process.cmdline()[:1])
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if "RayTrainWorker" in name:
            found.append(process)
    return sorted(found, key=lambda p: p.create_time())


class KillOneWorker(threading.Thread):
    """Waits until ``stage`` has logged ``step`` and a checkpoint is there, then kills a worker
    with SIGKILL, once."""

    def __init__(self, stage: Folder, step: int) -> None:
        super().__init__(daemon=True)
        self.stage = stage
        self.step = step
        self.killed_at: int | None = None
        self.start()

    def run(self) -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            logged = [m["step"] for m in read_metrics(self.stage)]
            if logged and logged[-1] >= self.step and self._checkpoint():
                workers = train_workers()
                if workers:
                    os.kill(workers[-1].pid, signal.SIGKILL)
                    self.killed_at = logged[-1]
                    return
            time.sleep(0.02)

    def _checkpoint(self) -> bool:
        return any(Path(self.stage.path).glob("checkpoints/step-*/complete.json"))
