"""The stream of a worker: its part of every global batch.

Ray Data carries it: units are read by Ray tasks anywhere in the cluster and pulled in order, with
back-pressure, by the worker that trains on them. The worker reads a small data set itself, once,
and keeps it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.errors import P5Error
from p5dist.feed.units import Unit, UnitReader, units

_SEGMENT = 256  # units per Ray Data execution: bounds the number of units in memory
_IN_FLIGHT = 2  # units that Ray Data works on or hands over while others wait
_BLOCK_ROWS = 4096  # put in the order of steps at once

ReadUnits = Callable[[UnitReader, Iterable[Unit], int], Iterator[Histories]]


def read_here(reader: UnitReader, to_read: Iterable[Unit], _: int = 0) -> Iterator[Histories]:
    """The histories of every unit, in order, read in this process."""
    return map(reader.read, to_read)


def read_with_ray(
    reader: UnitReader, to_read: Iterable[Unit], read_ahead: int
) -> Iterator[Histories]:
    """The histories of every unit, in order, read by Ray tasks up to ``read_ahead`` ahead."""
    import ray
    import ray.data

    shared = ray.put(reader)

    def read(batch: pa.Table) -> pa.Table:
        item = batch.to_pylist()[0]
        unit = Unit(*(np.asarray(item[name]) for name in ("epoch", "group", "position")))
        worker_reader: UnitReader = ray.get(shared)
        return worker_reader.read(unit).to_table()

    waiting = iter(to_read)
    while segment := list(islice(waiting, _SEGMENT)):
        items = [
            {"epoch": u.epoch.tolist(), "group": u.group.tolist(), "position": u.position.tolist()}
            for u in segment
        ]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            read,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=0,  # else reading waits for ever once the workers have reserved all CPUs
            concurrency=read_ahead + _IN_FLIGHT,
        )
        dataset.context.raise_original_map_exception = True
        options = dataset.context.execution_options
        options.preserve_order = True
        options.resource_limits = options.resource_limits.copy(
            object_store_memory=max(unit.size(reader.order) for unit in segment)
            * reader.bytes_per_row
            * (read_ahead + _IN_FLIGHT)
        )
        blocks = iter(
            dataset.iterator().iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=read_ahead
            )
        )
        for unit in segment:
            size = unit.size(reader.order)
            parts: list[pa.Table] = []
            while sum(map(len, parts)) < size:
                parts.append(_next(blocks))
            yield Histories.from_table(pa.concat_tables(parts))


def _next(blocks: Iterator[pa.Table]) -> pa.Table:
    """The next block; an error of ours as the task raised it, without the wrapping."""
    from ray.exceptions import RayTaskError

    try:
        return next(blocks)
    except RayTaskError as e:
        if isinstance(e.cause, P5Error):
            raise e.cause from None
        raise


class _Held:
    """The rows of one data set that a worker has and has not trained on, by block of steps.

    Args:
        source: of the units that come.
        start, stop, size: steps, and steps of a block.
        limit: rows; more than these are held only if the block that is asked for needs them.
    """

    def __init__(
        self,
        source: Iterator[tuple[Ints, Histories]],
        *,
        start: int,
        stop: int,
        size: int,
        limit: int,
    ) -> None:
        self._source = source
        self._coming = next(source, None)
        self._edges = np.append(np.arange(start, stop, size), stop)
        self._limit = limit
        self._pieces: dict[int, list[tuple[Ints, Histories]]] = defaultdict(list)
        self.rows = 0
        """Rows held."""

    def take(self, block: int) -> list[tuple[Ints, Histories]]:
        """Steps and histories of block number ``block``."""
        while self._coming is not None:
            steps, histories = self._coming
            needed = steps[0] < self._edges[block + 1]
            if not needed and self.rows + len(steps) > self._limit:
                break
            self._hold(steps, histories)
            self._coming = next(self._source, None)
        pieces = self._pieces.pop(block, [])
        self.rows -= sum(len(steps) for steps, _ in pieces)
        return pieces

    def _hold(self, steps: Ints, histories: Histories) -> None:
        cuts = np.searchsorted(steps, self._edges)
        for block in np.flatnonzero(np.diff(cuts)):
            begin, end = cuts[block], cuts[block + 1]
            # A copy, so that the memory of the unit goes with its pieces.
            self._pieces[int(block)].append(
                (steps[begin:end], histories.between(begin, end).copy())
            )
            self.rows += int(end - begin)


@dataclass(frozen=True)
class LaneStream:
    """The histories that one worker contributes to every global batch.

    Steps remove histories from memory piece by piece, and the next unit is taken as soon as it
    fits. With L lanes per worker and row groups of at most G rows, memory holds at most
    (L + 2) · G + 2 · unit_rows + 2 · 4,096 rows of each data set.
    """

    readers: tuple[UnitReader, ...]
    """One a data set; all have the same lanes."""
    rank: int
    world_size: int
    unit_rows: int
    read_ahead: int
    read_units: ReadUnits | None = None
    """Left out: the worker reads data that is kept in memory, Ray tasks read other data."""

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, Histories]]:
        """(global step, this worker's histories) for the steps ``start`` … ``stop - 1``.

        Near the end of an epoch a worker may have no history in a step; it still gets the step.
        """
        lanes = len(range(self.rank, self.readers[0].order.lanes, self.world_size))
        rows = lanes * sum(reader.order.rows_per_lane for reader in self.readers)
        size = max(_BLOCK_ROWS // rows, 1)
        held = [
            _Held(
                self._read(reader, start, stop),
                start=start,
                stop=stop,
                size=size,
                limit=lanes * int(reader.order.groups.rows.max()) + self.unit_rows,
            )
            for reader in self.readers
        ]
        for block, begin in enumerate(range(start, stop, size)):
            pieces = [piece for one in held for piece in one.take(block)]
            yield from _by_step(pieces, begin, min(begin + size, stop))

    def _read(self, reader: UnitReader, start: int, stop: int) -> Iterator[tuple[Ints, Histories]]:
        def to_read() -> Iterator[Unit]:
            return units(
                reader.order,
                rank=self.rank,
                world_size=self.world_size,
                start=start,
                stop=stop,
                unit_rows=self.unit_rows,
            )

        read_units = self.read_units or (read_here if reader.keep else read_with_ray)
        read = read_units(reader, to_read(), self.read_ahead)
        for unit, histories in zip(to_read(), read, strict=True):
            yield unit.steps(reader.order), histories


def _by_step(
    pieces: list[tuple[Ints, Histories]], begin: int, end: int
) -> Iterator[tuple[int, Histories]]:
    """The histories of every step ``begin`` … ``end - 1``; pieces are in the order of lanes."""
    steps = np.concatenate([np.zeros(0, np.int64), *(steps for steps, _ in pieces)])
    histories = Histories.concat([Histories.empty(), *(histories for _, histories in pieces)])
    by_step = np.argsort(steps, kind="stable")
    histories = histories.take(by_step)
    cuts = np.searchsorted(steps[by_step], np.arange(begin, end + 1))
    for i, step in enumerate(range(begin, end)):
        yield step, histories.between(int(cuts[i]), int(cuts[i + 1]))
