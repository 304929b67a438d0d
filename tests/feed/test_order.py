"""The order of training does not depend on the number of workers, and loses no row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist import columns as c
from p5dist.errors import ConfigError, ShardError
from p5dist.feed.histories import Histories
from p5dist.feed.order import LaneOrder
from p5dist.feed.randomness import permutation
from p5dist.feed.stream import LaneStream, read_with_ray
from p5dist.feed.units import Unit, UnitReader, units
from p5dist.manifest import Manifest
from p5dist.storage import RunFolder
from tests.small_data import small_job, write_small_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_small_data(small_job(tmp_path_factory.mktemp("order")))


def reader(folder: RunFolder, *, random_window: bool = False, seed: int = 3) -> UnitReader:
    manifest = Manifest.load(folder.prepare)
    order = LaneOrder(manifest, lanes=6, batch_size=12, seed=seed)
    return UnitReader(folder.prepare, manifest, order, (c.RATING,), 8, random_window)


def read_here(reader: UnitReader, plan: object, _: int) -> object:
    return map(reader.read, plan)  # type: ignore[call-overload]


def batches(
    source: UnitReader, workers: int, start: int, stop: int, unit_rows: int = 10
) -> list[dict[int, list[int]]]:
    """Global batches: for every step, row number → items."""
    found: list[dict[int, list[int]]] = [{} for _ in range(start, stop)]
    for rank in range(workers):
        stream = LaneStream(source, rank, workers, unit_rows, 1, read_here)  # type: ignore[arg-type]
        for step, histories in stream.steps(start, stop):
            for i, row in enumerate(histories.row):
                a, b = histories.offsets[i : i + 2]
                assert row not in found[step - start]
                found[step - start][int(row)] = histories.item[a:b].tolist()
    return found


@pytest.mark.parametrize("window", [False, True])
def test_global_batches_do_not_depend_on_workers_or_units(folder: RunFolder, window: bool) -> None:
    source = reader(folder, random_window=window)
    one = batches(source, 1, 0, 15)
    for workers, unit_rows in ((1, 1), (2, 10), (3, 1000), (4, 7), (6, 3)):
        assert batches(source, workers, 0, 15, unit_rows) == one


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


def test_another_seed_is_another_order(folder: RunFolder) -> None:
    assert batches(reader(folder), 1, 0, 4) != batches(reader(folder, seed=4), 1, 0, 4)


def test_only_training_interactions_are_read_and_windows_are_cut(folder: RunFolder) -> None:
    table = (folder.prepare / "shards/part-00000.parquet").read_table()
    whole = Histories.from_table(table)
    expected = {}
    for i, row in enumerate(whole.row):
        a, b = whole.offsets[i : i + 2]
        train = whole.item[a:b][whole.split[a:b] == c.TRAIN]
        expected[int(row)] = train.tolist()
    found: dict[int, list[int]] = {}
    for batch in batches(reader(folder), 1, 0, 5):
        found |= batch
    drawn: dict[int, set[tuple[int, ...]]] = {}
    for batch in batches(reader(folder, random_window=True), 1, 0, 60):
        for row, items in batch.items():
            drawn.setdefault(row, set()).add(tuple(items))
    for row, train in expected.items():
        assert found[row] == train[-8:]
        windows = {tuple(train[i : i + 8]) for i in range(max(len(train) - 7, 1))}
        assert drawn[row] <= windows
        assert len(windows) == 1 or len(drawn[row]) > 1


def test_batches_follow_the_definition_of_lanes(folder: RunFolder) -> None:
    """Row by row: lane l gets the groups at l, l + C, … of the permutation; step s takes the rows
    s·b … of every lane."""
    source = reader(folder)
    order = source.order
    lanes: dict[int, list[int]] = {lane: [] for lane in range(6)}
    for place, group in enumerate(permutation(len(order.group_rows), 3, 1, 0)):
        first = order.group_first_row[group]
        lanes[place % 6] += [int(first + i) for i in order.rows_of_group(0, int(group))]
    for step, batch in enumerate(batches(source, 1, 0, order.steps_in(0))):
        expected = {row for lane in lanes.values() for row in lane[step * 2 : step * 2 + 2]}
        assert set(batch) == expected


def test_units_are_large_and_span_epochs_of_small_data(folder: RunFolder) -> None:
    order = reader(folder).order
    plan = list(units(order, rank=0, world_size=1, start=0, stop=60, unit_rows=100))
    assert all(len(unit.step) >= 100 for unit in plan[:-1])
    assert len(set(plan[0].epoch.tolist())) > 1
    first = [int(unit.step.min()) for unit in plan]
    assert first == sorted(first)


def test_locate_and_total_steps(folder: RunFolder) -> None:
    order = reader(folder).order
    one = order.steps_in(0)
    assert order.locate(0) == (0, 0)
    assert order.locate(one - 1) == (0, one - 1)
    assert order.locate(one) == (1, 0)
    assert order.total_steps(2) == one + order.steps_in(1)
    assert order.total_steps(0.5) == round(one / 2)


def test_batch_size_must_fit_the_lanes(folder: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"multiple of feed\.lanes = 6"):
        LaneOrder(Manifest.load(folder.prepare), lanes=6, batch_size=13, seed=1)


def test_ray_reads_the_same_histories(folder: RunFolder, ray_session: None) -> None:
    source = reader(folder, random_window=True)
    plan = list(units(source.order, rank=0, world_size=2, start=3, stop=20, unit_rows=30))
    for ours, here in zip(read_with_ray(source, plan, 1), map(source.read, plan), strict=True):
        assert ours.row.tolist() == here.row.tolist()
        assert ours.item.tolist() == here.item.tolist()
        assert ours.rating.tolist() == here.rating.tolist()
        assert ours.offsets.tolist() == here.offsets.tolist()


def test_a_corrupt_row_group_names_the_file(tmp_path: Path) -> None:
    folder = write_small_data(small_job(tmp_path))
    source = reader(folder)
    path = Path(folder.prepare.path, "shards/part-00000.parquet")
    content = bytearray(path.read_bytes())
    content[:400] = bytes(400)
    path.write_bytes(content)
    unit = Unit(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(4, np.int64))
    with pytest.raises(ShardError, match="part-00000"):
        source.read(unit)
