"""``p5dist`` with a worker that is killed after its first start and raises an error after its
second start: ``python -m tests.faults.failing pretrain JOB.yaml``."""

from __future__ import annotations

import os
import signal
from typing import Any

from p5dist import pipeline
from p5dist.cli.main import main
from p5dist.config.scale import Scale
from p5dist.environment.ray_session import connect
from p5dist.storage import Folder

STEP = 7
"""It fails after so many steps."""


def failing_worker(config: dict[str, Any]) -> None:
    import ray.train

    from p5dist.observe.events import Callback, Event, Trained
    from p5dist.train import handover, worker

    make_callbacks = worker.make_callbacks

    class Failing(Callback):
        def __init__(self, place: Folder) -> None:
            self._place = place

        def on(self, event: Event) -> None:
            context = ray.train.get_context()
            last = context.get_world_rank() == context.get_world_size() - 1
            if last and isinstance(event, Trained) and event.step + 1 == STEP:
                if len(worker.read_starts(self._place)) == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RuntimeError("planted in the loop")

    def and_failing(session: Any, place: Folder, *rest: Any) -> list[Callback]:
        return [*make_callbacks(session, place, *rest), Failing(place)]

    worker.make_callbacks = and_failing
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
