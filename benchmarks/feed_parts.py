"""The parts of benchmarks/feed.py, each in a separate process: ``feed_parts.py PART JOB``.

Every part takes one epoch of histories and prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.config import RunConfig, load_job
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.environment.ray_session import connect
from p5dist.feed.mix import Mix, open_mix
from p5dist.feed.stream import LaneStream, read_here, read_with_ray
from p5dist.feed.units import UnitReader, units
from p5dist.storage import RunFolder

SAMPLES = 40


def plain(mix: Mix, job: RunConfig) -> dict[str, Any]:
    """pyarrow alone: every row group with the columns that training reads, in file order."""

    def read() -> Iterable[int]:
        for shard in mix.own.manifest.shards:
            with pq.ParquetFile(f"{mix.own.run.prepare.path}/{shard.path}") as file:
                for group in range(len(shard.groups)):
                    columns = [c.USER, c.ITEM, c.SPLIT, *job.history_columns()]
                    yield len(file.read_row_group(group, columns=columns, use_threads=False))

    return _timed(read())


def reader(mix: Mix, job: RunConfig) -> dict[str, Any]:
    """Read units in the order of training, in this process: the work of a Ray task."""
    (source,) = readers_of(mix, job)
    order = mix.own.order
    first = units(order, rank=0, world_size=1, start=0, stop=1, unit_rows=1)
    next(read_here(source, first))  # imports something
    plan = units(
        order, rank=0, world_size=1, start=0, stop=order.steps_in(0), unit_rows=job.feed.unit_rows
    )
    return _timed(map(len, read_here(source, plan)))


def readers_of(mix: Mix, job: RunConfig) -> tuple[UnitReader, ...]:
    """The readers of the pre-training."""
    return mix.readers(job, job.trainings()["pretrain"])


def lanes(mix: Mix, job: RunConfig) -> dict[str, Any]:
    """The stream of a single worker, read by Ray tasks; nothing is trained."""
    connect(job.scale)
    stream = LaneStream(
        readers_of(mix, job), 0, 1, job.feed.unit_rows, job.feed.read_ahead, read_with_ray
    )
    return _steps(stream, mix.own.order.steps_in(0))


def kept(mix: Mix, job: RunConfig) -> dict[str, Any]:
    """As :func:`lanes`, for data that the worker keeps in memory: the second epoch."""
    stream = LaneStream(
        mix.readers(job, job.trainings()["pretrain"]),
        0,
        1,
        job.feed.unit_rows,
        job.feed.read_ahead,
        read_here,
    )
    first = mix.own.order.steps_in(0)
    found = _steps(stream, mix.own.order.steps_before(2), timed_from=first)
    return {**found, "memory": []}


PARTS: dict[str, Callable[[Mix, RunConfig], dict[str, Any]]] = {
    "plain": plain, "reader": reader, "lanes": lanes, "kept": kept,
}  # fmt: skip


def _steps(stream: LaneStream, stop: int, *, timed_from: int = 1) -> dict[str, Any]:
    """Take all steps; timed from a step on, since the first waits for processes to start."""
    began, memory = time.perf_counter(), []
    steps = iter(stream.steps(0, stop))
    for _ in range(timed_from):
        next(steps)
    before = time.perf_counter() - began

    def sizes() -> Iterable[int]:
        for step, taken in steps:
            yield _values(taken)
            if step % max(stop // SAMPLES, 1) == 0:
                memory.append({"step": step, "bytes": _private_bytes()})

    return {**_timed(sizes()), "seconds_before": before, "memory": memory}


def _values(histories: Histories) -> int:
    """The number of histories, after reading the items."""
    histories.item.sum()
    return len(histories)


def _timed(sizes: Iterable[int]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    histories = sum(sizes)
    return {
        "histories": histories,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def _private_bytes() -> int:
    """Memory of this process that no other process shares, so without Ray's object store."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(x.split()[1]) * 1024 for x in lines if x.startswith("Private_"))


def main() -> None:
    """Run one part."""
    pa.set_cpu_count(1)
    name, path = sys.argv[1:]
    job = load_job(Path(path))
    folder = RunFolder.of(job.storage, job.name)
    mix = open_mix(job, "pretrain", folder, Manifest.load(folder.prepare))
    print(json.dumps(PARTS[name](mix, job)))


if __name__ == "__main__":
    main()
