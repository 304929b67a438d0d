"""Batches do not depend on the number of workers, nor on how the data is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from p5dist.data.histories import Histories
from p5dist.errors import ShardError
from p5dist.feed.stream import LaneStream, read_here, read_with_ray
from p5dist.feed.units import Unit, UnitReader, units
from p5dist.storage import RunFolder
from tests.feed.streams import batches, reader
from tests.small_data import small_job, write_small_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_small_data(small_job(tmp_path_factory.mktemp("stream")))


@pytest.mark.parametrize("window", [False, True])
def test_global_batches_do_not_depend_on_workers_or_units(folder: RunFolder, window: bool) -> None:
    source = reader(folder, random_window=window)
    one = batches(source, 1, 0, 15)
    for workers, unit_rows in ((1, 1), (2, 10), (3, 1000), (4, 7), (6, 3)):
        assert batches(source, workers, 0, 15, unit_rows) == one
    kept = reader(folder, random_window=window, keep=True)
    assert batches(kept, 2, 0, 15) == one
    assert batches(kept, 1, 0, 15, read_units=None) == one


def test_every_history_is_in_exactly_one_step_of_an_epoch(folder: RunFolder) -> None:
    source = reader(folder)
    first = 0
    orders = []
    for epoch in range(3):
        steps = source.order.steps_in(epoch)
        rows = [row for batch in batches(source, 2, first, first + steps) for row in batch]
        assert sorted(rows) == list(range(50))
        orders.append(rows)
        first += steps
    assert orders[0] != orders[1] != orders[2]


def test_starting_at_a_step_gives_the_batches_of_an_uninterrupted_run(folder: RunFolder) -> None:
    source = reader(folder, random_window=True)
    whole = batches(source, 1, 0, 17)
    for start in (1, 4, 5, 6, 11, 16):
        assert batches(source, 3, start, 17) == whole[start:]


def test_a_restart_reads_only_row_groups_that_are_still_needed(tmp_path: Path) -> None:
    folder = write_small_data(small_job(tmp_path), users=600, group_rows=4)
    source = reader(folder)
    half = source.order.steps_in(0) // 2
    read = [0]

    def counting(source: UnitReader, plan: Iterable[Unit], _: int) -> Iterator[Histories]:
        for unit in plan:
            read[0] += unit.size(source.order)
            yield source.read(unit)

    steps = LaneStream((source,), 0, 1, 10, 1, counting).steps(half, source.order.steps_in(0))
    step, _ = next(steps)
    assert step == half
    # Groups of the 6 lanes in the first block of steps, and no more than fits beside them.
    assert 0 < read[0] < 600 - half * 12 + 6 * 4
    for _ in steps:
        pass
    assert read[0] < 600 - half * 12 + 6 * 4 + 10


def test_rows_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 lanes, groups of 20 rows, units of 50, blocks of 36: of 2,000 rows never more than what
    the class promises are there."""
    monkeypatch.setattr("p5dist.feed.stream._BLOCK_ROWS", 36)
    folder = write_small_data(small_job(tmp_path), users=2000, group_rows=20)
    source = reader(folder)
    read = taken = most = 0

    def counting(source: UnitReader, plan: Iterable[Unit], _: int) -> Iterator[Histories]:
        nonlocal read, most
        for unit in plan:
            read += unit.size(source.order)
            most = max(most, read - taken)
            yield source.read(unit)

    for _, histories in LaneStream((source,), 0, 1, 50, 1, counting).steps(0, 170):
        taken += len(histories)
    assert taken > 1900
    assert 6 * 20 < most <= (6 + 2) * 20 + 2 * 50 + 2 * 36


def test_data_that_is_kept_in_memory_is_read_once(folder: RunFolder, tmp_path: Path) -> None:
    own = write_small_data(small_job(tmp_path))
    source = reader(own, keep=True)
    expected = batches(reader(folder), 1, 0, 60)
    steps = LaneStream((source,), 0, 1, 10, 1).steps(0, 60)
    found = [next(steps) for _ in range(source.order.steps_in(0))]
    for _ in range(20):  # all groups were read by now
        found.append(next(steps))
    for shard in Path(own.prepare.path, "shards").iterdir():
        os.truncate(shard, 0)
    found += steps
    assert [set(h.row.tolist()) for _, h in found] == [set(batch) for batch in expected]


def test_ray_reads_the_same_histories(folder: RunFolder, ray_session: None) -> None:
    source = reader(folder, random_window=True)
    plan = list(units(source.order, rank=0, world_size=2, start=3, stop=20, unit_rows=30))
    for ours, here in zip(read_with_ray(source, plan, 1), read_here(source, plan), strict=True):
        assert ours.row.tolist() == here.row.tolist()
        assert ours.item.tolist() == here.item.tolist()
        assert ours.rating.tolist() == here.rating.tolist()
        assert ours.offsets.tolist() == here.offsets.tolist()


def test_ray_reads_while_workers_reserve_all_cpus(folder: RunFolder, ray_session: None) -> None:
    import ray

    class Worker:
        def ready(self) -> None: ...

    cpus = ray.cluster_resources()["CPU"]
    worker = ray.remote(Worker).options(num_cpus=cpus).remote()
    ray.get(worker.ready.remote())
    try:
        assert batches(reader(folder), 1, 0, 20, read_units=read_with_ray) == batches(
            reader(folder), 1, 0, 20
        )
    finally:
        ray.kill(worker)


def test_a_corrupt_shard_is_told_as_the_task_told_it(tmp_path: Path, ray_session: None) -> None:
    source = reader(write_small_data(small_job(tmp_path)))
    path = Path(source.shards.prepare.path, "shards/part-00001.parquet")
    content = bytearray(path.read_bytes())
    content[:400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"part-00001\.parquet, row group \d") as raised:
        batches(source, 1, 0, 20, read_units=read_with_ray)
    assert type(raised.value) is ShardError
