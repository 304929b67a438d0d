"""Every column name and the Arrow schema of every table that p5dist writes.

An *interaction* is one event of the raw log, a *history* the interactions of one user in the
order of time: of all time, of one session, or of one window of either. A row of a shard is one
history; the rows of a user are adjacent, in the order of time, in one shard. Item ids are internal
ids from 1 by falling frequency; 0 is padding, never an item.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

USER = "user"
ITEM = "item"
TIMESTAMP = "timestamp"
EVENT = "event"
RATING = "rating"
SPLIT = "split"
CONTINUES = "continues"
CONTEXT = "context."
"""Begins the name of every context column."""

ID = "id"
EXTERNAL_ID = "external_id"
COUNT = "count"
WEIGHT = "weight"
TITLE = "title"

USER_ID = "user_id"
ITEM_ID = "item_id"
RANK = "rank"
SCORE = "score"

REASON = "reason"

SECOND = 1_000_000
"""Of the unit of TIMESTAMP, microseconds."""

# Values of SPLIT, one per interaction.
TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_CODES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}

# A cleaned interaction with the ids of the raw log.
INTERACTION = pa.schema(
    [
        (USER, pa.string()),
        (ITEM, pa.string()),
        (
            TIMESTAMP,
            pa.int64(),
        ),  # microseconds since 1970; without times, the row number
        (EVENT, pa.int8()),  # 0 where the log has no event type
        (RATING, pa.float32()),  # NaN where the log has no rating
    ]
)

# One row of a sequence shard: one history. The lists have equal length and are sorted by time.
HISTORY = pa.schema(
    [
        (USER, pa.int64()),
        (ITEM, pa.list_(pa.int64())),
        (TIMESTAMP, pa.list_(pa.int64())),
        (EVENT, pa.list_(pa.int8())),
        (RATING, pa.list_(pa.float32())),
        (SPLIT, pa.list_(pa.int8())),
    ]
)

# Ids are dense from 1, so row i holds id i + 1. COUNT counts training interactions only.
VOCABULARY = pa.schema([(ID, pa.int64()), (EXTERNAL_ID, pa.string()), (COUNT, pa.int64())])

# rejected/: the raw fields as read, and why the row was dropped.
REJECTED = pa.schema(
    [
        (USER, pa.string()),
        (ITEM, pa.string()),
        (TIMESTAMP, pa.string()),
        (EVENT, pa.string()),
        (RATING, pa.string()),
        (REASON, pa.string()),
    ]
)

# recommend/: one row per user and rank, ids and titles as in the raw log.
RECOMMENDATION = pa.schema(
    [
        (USER_ID, pa.string()),
        (RANK, pa.int32()),  # from 1
        (ITEM_ID, pa.string()),
        (TITLE, pa.string()),
        (SCORE, pa.float32()),
    ]
)
REASONS, COUNTED, ATTRIBUTES = "reasons", "counted", "attributes"
REASON = pa.struct([(ITEM_ID, pa.string()), ("share", pa.float32())])
ATTRIBUTE = pa.struct([("attribute", pa.string()), ("share", pa.float32())])
EXPLAINED = pa.schema(
    [
        *RECOMMENDATION,
        (REASONS, pa.list_(REASON)),  # by falling share
        (COUNTED, pa.float32()),  # share of counts in the probability
        (ATTRIBUTES, pa.list_(ATTRIBUTE)),  # of the item, by falling share
    ]
)


def shard_schema(context: Sequence[str] = ()) -> pa.Schema:
    """HISTORY; whether the row continues the session of the row before it, as a later window of the
    same session; and a list of value ids (from 1; 0 is none) for every context column."""
    fields = [pa.field(CONTINUES, pa.bool_())]
    fields += [pa.field(name, pa.list_(pa.int32())) for name in context]
    return pa.schema([*HISTORY, *fields])


def attribute_schema(names: tuple[str, ...], *, title: bool, text: Sequence[str] = ()) -> pa.Schema:
    """Schema of attributes/item.parquet or attributes/user.parquet.

    Row i belongs to id i + 1; every attribute is a list of attribute value ids from 1 (an empty
    list where the id has none); the attributes in ``text`` are text.
    """
    fields = [pa.field(ID, pa.int64())]
    if title:
        fields.append(pa.field(TITLE, pa.string()))
    for name in names:
        fields.append(pa.field(name, pa.string() if name in text else pa.list_(pa.int32())))
    return pa.schema(fields)
