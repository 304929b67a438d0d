"""Code that the tests of the order and the stream share."""

from __future__ import annotations

from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.feed.order import LaneOrder
from p5dist.feed.stream import LaneStream, ReadUnits, read_here
from p5dist.feed.units import UnitReader
from p5dist.storage import RunFolder

LANES, BATCH = 6, 12
Batches = list[dict[int, list[int]]]
"""For every step, row number → items."""


def reader(
    folder: RunFolder, *, random_window: bool = False, seed: int = 3, keep: bool = False
) -> UnitReader:
    manifest = Manifest.load(folder.prepare)
    order = LaneOrder(manifest, lanes=LANES, batch_size=BATCH, seed=seed)
    shards = ShardReader(folder.prepare, manifest, (c.RATING,))
    return UnitReader(shards, order, 8, random_window=random_window, keep=keep)


def batches(
    source: UnitReader | tuple[UnitReader, ...], workers: int, start: int, stop: int,
    unit_rows: int = 10, read_units: ReadUnits | None = read_here,
) -> Batches:  # fmt: skip
    """Global batches, from the streams of all workers."""
    readers = source if isinstance(source, tuple) else (source,)
    found: Batches = [{} for _ in range(start, stop)]
    for rank in range(workers):
        stream = LaneStream(readers, rank, workers, unit_rows, 1, read_units)
        steps = []
        for step, histories in stream.steps(start, stop):
            steps.append(step)
            for i, row in enumerate(histories.row):
                a, b = histories.offsets[i : i + 2]
                assert row not in found[step - start]
                found[step - start][int(row)] = histories.item[a:b].tolist()
        assert steps == list(range(start, stop))
    return found
