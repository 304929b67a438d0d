"""Whole users: all interactions of each, whether they lie in one row of a shard or in many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Ints, ranges


@dataclass(frozen=True)
class Users:
    """U users with T interactions together."""

    histories: Histories
    """One history a user, with all interactions of the user in the order of time; its row number
    is the number of the user's first row."""
    session: Ints
    """[T] number of the session that each interaction is in; rising, no two users share one."""

    def __len__(self) -> int:
        return len(self.histories)

    @classmethod
    def join(cls, rows: Histories, continues: Bools) -> Users:
        """Users from the rows of shards, the rows of a user being adjacent.

        Args:
            rows: R histories, in memory one after the other.
            continues: [R] whether a row continues the session of the row before it.
        """
        new_user = np.ones(len(rows), dtype=bool)
        new_user[1:] = rows.user[1:] != rows.user[:-1]
        first = np.flatnonzero(new_user)
        number = np.cumsum(new_user | ~continues)
        return cls(rows.joined(first), np.repeat(number, rows.lengths).astype(np.int64))

    def take(self, index: Ints) -> Users:
        """Users ``index``."""
        whole = self.histories
        kept = ranges(whole.offsets[:-1][index], whole.lengths[index])
        return Users(whole.take(index), self.session[kept])

    def sessions(self) -> Histories:
        """One history a session, with all of its interactions."""
        new = np.ones(len(self.session), dtype=bool)
        new[1:] = self.session[1:] != self.session[:-1]
        return self.histories.divided(np.flatnonzero(new))

    def latest_session(self) -> Histories:
        """One history a user: the interactions of the user's last session."""
        ends = self.histories.offsets[1:]
        last = self.session[np.maximum(ends - 1, 0)] if len(self.session) else ends
        owner = self.histories.owner()
        return self.histories.where(self.session == last[owner])
