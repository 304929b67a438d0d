"""Read units: their rows, steps and interactions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.reader import ShardReader
from p5dist.errors import ShardError
from p5dist.feed.order import LaneOrder
from p5dist.feed.stream import LaneStream, ReadUnits, read_here
from p5dist.feed.units import Unit, UnitReader, units
from p5dist.storage import RunFolder
from p5dist.tasks.click.negatives import Unclicked
from tests.data.written import Row, as_windows, write
from tests.feed.streams import batches, reader
from tests.small_data import small_job, write_small_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_small_data(small_job(tmp_path_factory.mktemp("units")))


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


def test_units_are_large_and_span_epochs_of_small_data(folder: RunFolder) -> None:
    order = reader(folder).order
    plan = list(units(order, rank=0, world_size=1, start=0, stop=60, unit_rows=100))
    assert all(unit.size(order) >= 100 for unit in plan[:-1])
    assert len(set(plan[0].epoch.tolist())) > 1
    first = [int(unit.steps(order)[0]) for unit in plan]
    assert first == sorted(first)


def test_what_is_read_has_the_rows_and_steps_that_the_unit_names(folder: RunFolder) -> None:
    source = reader(folder)
    order = source.order
    begin = order.steps_before(1)
    plan = units(order, rank=0, world_size=1, start=0, stop=begin + 9, unit_rows=33)
    found = set()
    for unit in plan:
        row, epoch = unit.rows(order)
        assert source.read(unit).row.tolist() == row.tolist()
        found |= set(zip(unit.steps(order).tolist(), row.tolist(), epoch.tolist(), strict=True))
    of_epoch = {(step, row) for step, row, epoch in found if epoch == 0}
    assert sorted(row for _, row in of_epoch) == list(range(50))
    assert {step for step, _ in of_epoch} == set(range(begin))
    assert min(step for step, _, epoch in found if epoch == 1) == begin


def test_columns_that_are_not_asked_for_take_no_memory(folder: RunFolder) -> None:
    source = reader(folder)
    unit = next(units(source.order, rank=0, world_size=1, start=0, stop=9, unit_rows=50))
    histories = source.read(unit)
    table = histories.to_table()
    assert table.column_names == [c.USER, c.ITEM, c.RATING, "row"]
    again = Histories.from_table(table)
    for part in (histories, again, histories.between(3, 9), Histories.concat([again, again])):
        assert len(part.timestamp) == len(part.split) == len(part.item) > 0
        assert not part.timestamp.any()
        assert part.timestamp.strides == part.split.strides == (0,)


def test_users_of_other_data_sets_are_strangers(folder: RunFolder) -> None:
    source = reader(folder)
    stranger = type(source)(**{**source.__dict__, "strangers": True})
    unit = next(units(source.order, rank=0, world_size=1, start=0, stop=9, unit_rows=50))
    assert source.read(unit).user.all()
    assert not stranger.read(unit).user.any()


def test_a_corrupt_row_group_names_the_file(tmp_path: Path) -> None:
    folder = write_small_data(small_job(tmp_path))
    source = reader(folder)
    path = Path(folder.prepare.path, "shards/part-00000.parquet")
    content = bytearray(path.read_bytes())
    content[:400] = bytes(400)
    path.write_bytes(content)
    zero = np.zeros(1, np.int64)
    with pytest.raises(ShardError, match=r"part-00000\.parquet, row group 0"):
        source.read(Unit(zero, zero, zero))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("read_units", [read_here, None])
def test_drawn_negatives_are_items_that_the_user_has_not_had_in_any_row(
    tmp_path: Path, keep: bool, read_units: ReadUnits | None, request: pytest.FixtureRequest
) -> None:
    """Users with 20 of 24 items in windows of 3, of which the encoder sees 2."""
    if read_units is None and not keep:
        request.getfixturevalue("ray_session")
    rng = np.random.default_rng(2)
    had = [rng.permutation(24)[:20] + 1 for _ in range(30)]
    users = [(Row(False, tuple(map(int, own)), (0,) * 19 + (2,)),) for own in had]
    prepare, manifest = write(tmp_path, as_windows([users], 3), items=24, group_rows=4)
    order = LaneOrder(manifest, lanes=2, batch_size=8, seed=1)
    source = UnitReader(
        ShardReader(prepare, manifest), order, 2, random_window=True, whole_users=True, keep=keep
    )
    draw = Unclicked(4, catalogue=Catalogue(24), seed=1)
    stream = LaneStream((source,), 0, 1, 20, 1, read_units)
    drawn = 0
    for step, histories in stream.steps(0, 20):
        assert histories.lengths.max() <= 2
        owner, items = histories.user[histories.owner()], draw.drawn(histories, step)
        for user, row in zip(owner, items, strict=True):
            trained = set(had[user - 1][:19].tolist())
            assert not trained & set(row.tolist())
            drawn += int((row > 0).sum())
    assert drawn > 200
