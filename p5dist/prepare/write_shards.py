"""Histories → one Parquet file of a shard."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.data import columns as c
from p5dist.data.jagged import Array, Ints
from p5dist.data.manifest import ShardFile
from p5dist.prepare.histories import ShardHistories
from p5dist.storage import Folder

_GROUP_ROWS = 8192
_GROUPS_PER_LANE = 4


def group_rows(histories: int, lanes: int) -> int:
    """Rows of a row group: 8,192, or fewer so that every lane has at least four groups."""
    return min(_GROUP_ROWS, max(1, histories // (lanes * _GROUPS_PER_LANE)))


def history_table(
    histories: ShardHistories, user: Ints, item_ids: Ints, coded_ids: Mapping[str, Ints]
) -> pa.Table:
    """The table of schema columns.shard_schema.

    Args:
        user: [B] user ids.
        item_ids: item id of every item of the shard.
        coded_ids: by column (event and context) the id of every value of the shard.
    """
    rows, offsets = histories.rows, np.concatenate([[0], np.cumsum(histories.lengths)])
    context = [name for name in rows.coded if name != c.EVENT]
    size = len(rows)

    def ids(name: str, kind: type) -> Array:
        return coded_ids[name].astype(kind)[rows.coded[name]]

    lists: list[Array] = [
        item_ids[rows.item],
        rows.time,
        ids(c.EVENT, np.int8) if c.EVENT in rows.coded else np.zeros(size, np.int8),
        rows.rating if rows.rating is not None else np.full(size, np.nan, np.float32),
        histories.split,
        *(ids(name, np.int32) for name in context),
    ]
    ends = pa.array(offsets.astype(np.int32))
    columns = [pa.ListArray.from_arrays(ends, pa.array(values)) for values in lists]
    session = histories.session
    continues = np.append(False, session[1:] == session[:-1])
    columns.insert(len(lists) - len(context), pa.array(continues))
    return pa.table([pa.array(user), *columns], schema=c.shard_schema(context))


def write_shard(table: pa.Table, prepare: Folder, path: str, first: int, rows: int) -> ShardFile:
    """Write ``prepare/path`` with ``rows`` histories per row group."""
    target = prepare / path
    # Ids and times as differences, lists of few values by dictionary: half the time and two
    # thirds of the bytes of the defaults. Nothing reads statistics.
    deltas = (c.USER, *(f"{name}.list.element" for name in (c.ITEM, c.TIMESTAMP)))
    lists = [f"{f.name}.list.element" for f in table.schema if pa.types.is_list(f.type)]
    target.write_table(
        table,
        row_group_size=rows,
        compression="zstd",
        write_statistics=False,
        use_dictionary=[name for name in lists if name not in deltas],
        column_encoding=dict.fromkeys(deltas, "DELTA_BINARY_PACKED"),
    )
    size = target.size()
    assert size is not None
    with target.fs.open_input_file(target.path) as f:
        meta = pq.read_metadata(f)
    groups = tuple(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
    return ShardFile(path=path, bytes=size, first_row=first, groups=groups)
