"""``p5dist`` with a worker that is killed after its first start and raises an error after the
second one: ``python -m tests.faults.failing pretrain JOB.yaml``."""

from __future__ import annotations

import os
import signal
from typing import Any

import ray.train

from p5dist.cli import main
from p5dist.feed.histories import Ints
from p5dist.train import driver
from p5dist.train.reporting import WorkerOutside
from p5dist.train.worker import read_starts, train_worker

STEP = 7
"""It fails after so many steps."""


class FailingOutside(WorkerOutside):
    """Of the worker that fails."""

    def trained(self, step: int, rows: Ints) -> None:
        super().trained(step, rows)
        context = ray.train.get_context()
        if step + 1 == STEP and context.get_world_rank() == context.get_world_size() - 1:
            if len(read_starts(self._place)) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("planted in the loop")


def failing_worker(config: dict[str, Any]) -> None:
    from p5dist.train import worker

    worker.WorkerOutside = FailingOutside  # type: ignore[misc]
    train_worker(config)


if __name__ == "__main__":
    from tests.faults.failing import failing_worker as importable

    driver.train_worker = importable
    main()
