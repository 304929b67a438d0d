"""The users of the log that lists are made for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.data.reader import Portion, ShardReader
from p5dist.errors import DataError
from p5dist.inference.lists.id_files import read_ids
from p5dist.prepare.arrays import one_array
from p5dist.storage import Folder

NAMED = 100
"""Unknown ids that result.json lists."""


@dataclass(frozen=True)
class Chosen:
    """Users named by ``recommend.users``."""

    ids: Ints
    """[n] internal user ids, rising."""
    unknown: int
    """Named users that the log does not have."""
    unknown_named: tuple[str, ...]
    """The first of them, at most NAMED."""


def chosen_users(job: RunConfig, prepare: Folder) -> Chosen | None:
    """The users that the job names; None: all users of the log. The named ids are in memory, the
    vocabulary streams by.

    Raises:
        DataError: a file cannot be read; the log has none of its users.
    """
    section = job.recommend
    assert section is not None
    if section.users is None:
        return None
    names = [job.prepare.source.columns.user, c.USER_ID]
    wanted = read_ids(section.users, "recommend.users", names)
    file = prepare / "vocabulary/user.parquet"
    known = ds.dataset(file.path, filesystem=file.fs)
    found = known.join(
        ds.dataset(pa.table({c.EXTERNAL_ID: wanted})), keys=c.EXTERNAL_ID, join_type="inner"
    ).to_table(columns=[c.ID, c.EXTERNAL_ID])
    unknown = wanted.filter(pc.invert(pc.is_in(wanted, one_array(found[c.EXTERNAL_ID]))))
    if not len(found):
        raise DataError(
            "the log has none of the users", where="recommend.users",
            value=", ".join(wanted.slice(0, 5).to_pylist()),
            rule="external ids of users of the log; recommend.histories is for other people",
            fix="correct the file or recommend.users",
        )  # fmt: skip
    ids = np.sort(found[c.ID].to_numpy())
    return Chosen(ids, len(unknown), tuple(unknown.slice(0, NAMED).to_pylist()))


def portions_with(users: Ints, reader: ShardReader, portions: list[Portion]) -> Iterator[Portion]:
    """The portions that may have one of the users, by the least and greatest user id that the
    files state for each row group.

    Args:
        users: rising.
    """
    low, high = _ranges(reader)
    for portion in portions:
        groups = slice(portion.first, portion.end)
        first = np.searchsorted(users, low[groups])
        if (np.searchsorted(users, high[groups], side="right") > first).any():
            yield portion


def _ranges(reader: ShardReader) -> tuple[Ints, Ints]:
    """[row groups] least and greatest user id."""
    low, high = [], []
    for shard in reader.manifest.shards:
        file = reader.prepare / shard.path
        with file.fs.open_input_file(file.path) as opened:
            about = pq.read_metadata(opened)
        column = about.schema.names.index(c.USER)
        for group in range(about.num_row_groups):
            known = about.row_group(group).column(column).statistics
            there = known is not None and known.has_min_max
            low.append(known.min if there else 0)
            high.append(known.max if there else np.iinfo(np.int64).max)
    return np.array(low, dtype=np.int64), np.array(high, dtype=np.int64)
