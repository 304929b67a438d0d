"""Makes Histories from plain lists."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Jagged
from p5dist.data.users import Users


def histories(
    items: list[list[int]],
    ratings: list[list[float]] | None = None,
    splits: list[list[int]] | None = None,
) -> Histories:
    """Users 1, 2, … with these item ids; no ratings, all train, unless given."""
    return Histories.from_table(table(items, ratings, splits))


def items_of(users: Histories) -> Jagged:
    """The items of each history."""
    return Jagged(users.offsets, users.item)


def whole_users(users: Histories, session: list[int] | None = None) -> Users:
    """Users of one history each.

    Args:
        session: [T] number of the session of each interaction; left out: one a user.
    """
    return Users(users, users.owner() if session is None else np.asarray(session))


def table(
    items: list[list[int]],
    ratings: list[list[float]] | None = None,
    splits: list[list[int]] | None = None,
) -> pa.Table:
    """As :func:`histories`, as a table of schema columns.HISTORY."""
    return pa.table(
        {
            c.USER: np.arange(1, len(items) + 1),
            c.ITEM: items,
            c.TIMESTAMP: [list(range(len(x))) for x in items],
            c.EVENT: [[0] * len(x) for x in items],
            c.RATING: ratings or [[np.nan] * len(x) for x in items],
            c.SPLIT: splits or [[c.TRAIN] * len(x) for x in items],
        },
        schema=c.HISTORY,
    )
