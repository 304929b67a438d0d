"""Ray Data carries the lanes: units are read by Ray tasks anywhere in the cluster and pulled in
order, with back-pressure, by the worker that trains on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from p5dist.feed.histories import Histories, Ints
from p5dist.feed.units import Unit, UnitReader, units

_SEGMENT = 256  # units per Ray Data execution: bounds what the worker keeps of the plan

ReadUnits = Callable[[UnitReader, Iterable[Unit], int], Iterator[Histories]]


def read_with_ray(reader: UnitReader, plan: Iterable[Unit], read_ahead: int) -> Iterator[Histories]:
    """The histories of every unit, in order, read by Ray tasks up to ``read_ahead`` ahead."""
    import ray
    import ray.data

    shared = ray.put(reader)

    def read(batch: pa.Table) -> pa.Table:
        item = batch.to_pylist()[0]
        unit = Unit(np.asarray(item["epoch"]), np.asarray(item["group"]), np.zeros(0, np.int64))
        worker_reader: UnitReader = ray.get(shared)
        return worker_reader.read(unit).to_table()

    waiting = iter(plan)
    while segment := list(islice(waiting, _SEGMENT)):
        items = [{"epoch": u.epoch.tolist(), "group": u.group.tolist()} for u in segment]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            read, batch_size=1, batch_format="pyarrow", num_cpus=0.5
        )
        dataset.context.execution_options.preserve_order = True
        blocks = iter(
            dataset.iterator().iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=read_ahead
            )
        )
        for unit in segment:
            parts: list[Histories] = []
            while sum(map(len, parts)) < len(unit.step):
                parts.append(Histories.from_table(next(blocks)))
            yield Histories.concat(parts)


@dataclass
class _Buffered:
    """A unit in memory, its rows sorted by the step that takes them."""

    histories: Histories
    by_step: Ints
    steps: Ints

    def take(self, step: int) -> Histories:
        begin, end = np.searchsorted(self.steps, [step, step + 1])
        return self.histories.take(self.by_step[begin:end])


@dataclass(frozen=True)
class LaneStream:
    """The histories that one worker contributes to every global batch."""

    reader: UnitReader
    rank: int
    world_size: int
    unit_rows: int
    read_ahead: int
    read_units: ReadUnits = read_with_ray

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, Histories]]:
        """(global step, this worker's histories) for the steps ``start`` … ``stop - 1``.

        Near the end of an epoch a worker may have no history in a step; it still gets the step.
        """
        source = self._read(start, stop)
        coming = next(source, None)
        buffered: list[_Buffered] = []
        nothing = Histories.empty()
        for step in range(start, stop):
            while coming is not None and coming.steps[0] <= step:
                buffered.append(coming)
                coming = next(source, None)
            yield step, Histories.concat([nothing, *(b.take(step) for b in buffered)])
            buffered = [b for b in buffered if b.steps[-1] > step]

    def _read(self, start: int, stop: int) -> Iterator[_Buffered]:
        def plan() -> Iterator[Unit]:
            return units(
                self.reader.order,
                rank=self.rank,
                world_size=self.world_size,
                start=start,
                stop=stop,
                unit_rows=self.unit_rows,
            )

        read = self.read_units(self.reader, plan(), self.read_ahead)
        for unit, histories in zip(plan(), read, strict=True):
            by_step = np.argsort(unit.step, kind="stable")
            yield _Buffered(histories, by_step, unit.step[by_step])
