"""Histories → one Parquet file of a shard."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5dist import columns as c
from p5dist.manifest import ShardFile
from p5dist.prepare.arrays import Ints
from p5dist.prepare.histories import Grouped
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder

_GROUP_ROWS = 8192
_GROUPS_PER_LANE = 4


def group_rows(histories: int, lanes: int) -> int:
    """Rows of a row group: 8,192, or fewer so that every lane has at least four groups."""
    return min(_GROUP_ROWS, max(1, histories // (lanes * _GROUPS_PER_LANE)))


def history_table(grouped: Grouped, items: Vocabulary, events: Vocabulary, first: int) -> pa.Table:
    """The table of schema columns.HISTORY; user ids count from ``first`` + 1."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(grouped.lengths)]).astype(np.int32))
    item = items.ids(grouped.items)[grouped.item]
    event = events.ids(grouped.events)[grouped.event].astype(np.int8)
    lists = (item, grouped.timestamp, event, grouped.rating, grouped.split)
    user = np.arange(first + 1, first + 1 + len(grouped.users), dtype=np.int64)
    columns = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in lists]
    return pa.table([user, *columns], schema=c.HISTORY)


def write_shard(table: pa.Table, prepare: Folder, path: str, first: int, rows: int) -> ShardFile:
    """Write ``prepare/path`` with ``rows`` histories per row group."""
    target = prepare / path
    target.write_table(table, row_group_size=rows, compression="zstd")
    size = target.size()
    assert size is not None
    with target.fs.open_input_file(target.path) as f:
        meta = pq.read_metadata(f)
    groups = tuple(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
    return ShardFile(path=path, bytes=size, first_row=first, groups=groups)


def train_counts(grouped: Grouped) -> Ints:
    """[B] training interactions of each user."""
    ends = np.concatenate([[0], np.cumsum(grouped.split == c.TRAIN)])
    edges = np.concatenate([[0], np.cumsum(grouped.lengths)]).astype(np.int64)
    return np.diff(ends[edges]).astype(np.int64)
