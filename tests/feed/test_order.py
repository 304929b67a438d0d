"""The order of training is a pure function of seed, epoch and data."""

from __future__ import annotations

import pickle

import pytest

from p5dist.data.manifest import Manifest
from p5dist.data.randomness import permutation
from p5dist.errors import ConfigError
from p5dist.feed.order import LaneOrder
from p5dist.storage import RunFolder
from tests.feed.streams import batches, reader
from tests.small_data import small_job, write_small_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_small_data(small_job(tmp_path_factory.mktemp("order")))


def test_another_seed_is_another_order(folder: RunFolder) -> None:
    assert batches(reader(folder), 1, 0, 4) != batches(reader(folder, seed=4), 1, 0, 4)


def test_batches_follow_the_definition_of_lanes(folder: RunFolder) -> None:
    """Row by row: lane l gets the groups at l, l + C, … of the permutation; step s takes the rows
    s·b … of every lane."""
    source = reader(folder)
    order = source.order
    lanes: dict[int, list[int]] = {lane: [] for lane in range(6)}
    for place, group in enumerate(permutation(len(order.groups.rows), 3, 1, 0)):
        lanes[place % 6] += order.rows_of_group(0, int(group)).tolist()
    for step, batch in enumerate(batches(source, 1, 0, order.steps_in(0))):
        expected = {row for lane in lanes.values() for row in lane[step * 2 : step * 2 + 2]}
        assert set(batch) == expected


def test_locate_and_total_steps(folder: RunFolder) -> None:
    order = reader(folder).order
    one = order.steps_in(0)
    assert order.locate(0) == (0, 0)
    assert order.locate(one - 1) == (0, one - 1)
    assert order.locate(one) == (1, 0)
    assert order.total_steps(2) == one + order.steps_in(1)
    assert order.total_steps(0.5) == round(one / 2)


@pytest.mark.parametrize("asked_first", [0, 7, 40])
def test_the_answer_does_not_depend_on_what_was_asked_before(
    folder: RunFolder, asked_first: int
) -> None:
    asked, fresh = reader(folder).order, reader(folder).order
    asked.locate(asked_first)
    asked.of_epoch(9)
    assert [asked.locate(s) for s in range(60)] == [fresh.locate(s) for s in range(60)]
    assert (asked.of_epoch(2).group == fresh.of_epoch(2).group).all()
    assert pickle.loads(pickle.dumps(asked)).locate(59) == fresh.locate(59)


def test_batch_size_must_fit_the_lanes(folder: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"multiple of feed\.lanes = 6"):
        LaneOrder(Manifest.load(folder.prepare), lanes=6, batch_size=13, seed=1)


def test_row_numbers_of_a_later_data_set_begin_behind(folder: RunFolder) -> None:
    manifest = Manifest.load(folder.prepare)
    order = LaneOrder(manifest, lanes=6, batch_size=12, seed=1, first_row=1000)
    assert order.groups.first_row[0] == 1000
    assert order.groups.first_row[-1] + order.groups.rows[-1] == 1050
