"""The objects that the driver hands to Ray Train.

The processes of Ray Train itself (the controller, and the process that distributes data) import
this file; it needs neither PyTorch nor TorchRec, whose import takes seconds in each process.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.data import DataIterator

from p5dist.feed.stream import LaneStream
from p5dist.feed.units import UnitReader
from p5dist.train.failures import final_error

FEED = "train"

_TELL_S = 5.0


@dataclass(frozen=True)
class Feed:
    """The parts of every worker's stream; Ray Train carries them as its dataset."""

    readers: tuple[UnitReader, ...]
    unit_rows: int
    read_ahead: int


class LaneDataConfig(ray.train.DataConfig):  # type: ignore[misc]
    """Gives every worker the stream of its lanes, anew at each start of the worker group."""

    def configure(
        self, datasets: dict[str, Feed], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        """One stream a rank; a position is not in it, each worker starts where its checkpoint
        says."""
        return [
            {
                name: LaneStream(feed.readers, rank, world_size, feed.unit_rows, feed.read_ahead)
                for name, feed in datasets.items()
            }
            for rank in range(world_size)
        ]


def train_worker(config: dict[str, Any]) -> None:
    """Train one stage; called by Ray Train on every worker.

    Args:
        config: ``job`` (text of the resolved job), ``stage``, ``threads``, ``monitor`` (actor),
            ``own`` (see :func:`.failures.own_packages`).
    """
    rank = ray.train.get_context().get_world_rank()
    try:
        from p5dist.train.worker import train

        train(config, rank)
    except Exception as error:
        monitor = config["monitor"]
        told = [monitor.raised.remote(rank, traceback.format_exc())]
        if (final := final_error(error, config["own"])) is not None:
            told.append(monitor.give_up.remote(final))
        ray.wait(told, num_returns=len(told), timeout=_TELL_S)  # nor with an error of its own
        raise
