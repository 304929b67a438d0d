"""``p5dist`` with a worker that is killed after its first start and raises an error after the
second one: ``python -m tests.faults.failing pretrain JOB.yaml``."""

from __future__ import annotations

import os
import signal
from typing import Any

from p5dist import pipeline
from p5dist.cli.main import main
from p5dist.config.scale import Scale
from p5dist.environment.ray_session import connect

STEP = 7
"""It fails after so many steps."""


def failing_worker(config: dict[str, Any]) -> None:
    import ray.train

    from p5dist.data.jagged import Ints
    from p5dist.train import handover, worker

    class FailingOutside(worker.WorkerOutside):
        def trained(self, step: int, rows: Ints) -> None:
            super().trained(step, rows)
            context = ray.train.get_context()
            if step + 1 == STEP and context.get_world_rank() == context.get_world_size() - 1:
                if len(worker.read_starts(self._place)) == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RuntimeError("planted in the loop")

    worker.WorkerOutside = FailingOutside  # type: ignore[misc]
    handover.train_worker(config)


def connect_and_plant(scale: Scale) -> None:
    """Ray is imported as late as p5dist does it."""
    connect(scale)
    from p5dist.train import driver
    from tests.faults.failing import failing_worker as importable

    driver.train_worker = importable


if __name__ == "__main__":
    pipeline.connect = connect_and_plant
    main()
