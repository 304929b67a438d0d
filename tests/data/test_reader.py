"""The reader of shards against plain lists: row groups, whole users, items that users have had."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.errors import ShardError
from tests.data.test_histories import items_of
from tests.data.written import (
    Row,
    Shards,
    UserRows,
    lists_of,
    random_shards,
    sessions_of,
    whole,
    write,
)
from tests.small_data import small_job, write_small_data

ITEMS = 6


def reader_of(folder: str, shards: Shards, group_rows: int) -> ShardReader:
    prepare, manifest = write(Path(folder), shards, items=ITEMS, group_rows=group_rows)
    return ShardReader(prepare, manifest, (c.TIMESTAMP, c.RATING, c.EVENT))


def users_of(shards: Shards) -> list[UserRows]:
    return [rows for users in shards for rows in users]


@settings(deadline=None, max_examples=60)
@given(random_shards(), st.integers(1, 4), st.integers(1, 12))
def test_every_user_is_whole_and_in_one_portion(shards: Shards, group_rows: int, rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reader = reader_of(folder, shards, group_rows)
        portions = reader.portions(rows)
        assert [portion.number for portion in portions] == list(range(len(portions)))
        assert sum(portion.rows for portion in portions) == reader.manifest.histories
        found = [reader.users(portion) for portion in portions]
    expected = users_of(shards)
    assert [u for part in found for u in part.histories.user] == list(range(1, len(expected) + 1))
    items = [own for part in found for own in items_of(part.histories)]
    assert items == [[i for i, _ in whole(rows)] for rows in expected]
    by_session = [own for part in found for own in items_of(part.sessions())]
    assert by_session == [[i for i, _ in s] for rows in expected for s in sessions_of(rows)]
    latest = [own for part in found for own in items_of(part.latest_session())]
    assert latest == [[i for i, _ in sessions_of(rows)[-1]] for rows in expected]
    ratings = np.concatenate([part.histories.rating for part in found])
    assert ratings.tolist() == [float(i) for own in items for i in own]


@settings(deadline=None, max_examples=60)
@given(random_shards(), st.integers(1, 4))
def test_what_a_user_has_had_is_known_in_every_row(shards: Shards, group_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reader = reader_of(folder, shards, group_rows)
        expected = users_of(shards)
        for number in range(len(reader.groups)):
            rows = reader.group(number)
            had, of = reader.training_items(number, rows)
            lists = lists_of(had)
            for user, index in zip(rows.user, of, strict=True):
                trained = {i for i, split in whole(expected[user - 1]) if split == c.TRAIN}
                assert lists[index] == sorted(trained)


@settings(deadline=None, max_examples=30)
@given(random_shards(), st.integers(1, 3))
def test_the_user_of_a_row(shards: Shards, group_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reader = reader_of(folder, shards, group_rows)
        expected = users_of(shards)
        row = 0
        for user, rows in enumerate(expected, 1):
            for _ in rows:
                found = reader.user_at(row)
                assert found.histories.user.tolist() == [user]
                assert items_of(found.histories) == [[i for i, _ in whole(rows)]]
                row += 1


def test_one_user_may_fill_many_row_groups() -> None:
    long = tuple(Row(n > 0, (1 + n % ITEMS,), (c.TRAIN,)) for n in range(9))
    shards = [[(Row(False, (1,), (0,)),), long, (Row(False, (2,), (0,)),)]]
    with tempfile.TemporaryDirectory() as folder:
        reader = reader_of(folder, shards, 2)
        sizes = [len(reader.users(portion)) for portion in reader.portions(2)]
        assert sizes == [2, 0, 0, 0, 0, 1]
        first = reader.users(reader.portions(2)[0])
        assert first.histories.lengths.tolist() == [1, 9]


def test_a_corrupt_shard_is_named(tmp_path: Path) -> None:
    folder = write_small_data(small_job(tmp_path))
    reader = ShardReader(folder.prepare, Manifest.load(folder.prepare))
    (portion,) = reader.portions(1000)
    (folder.prepare / "shards/part-00001.parquet").write_bytes(b"x" * 1000)
    with pytest.raises(ShardError, match="part-00001"):
        reader.users(portion)
