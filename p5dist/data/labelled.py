"""The users whose interactions are labels of a task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints, Jagged, offsets_of
from p5dist.data.randomness import Stream, uniform
from p5dist.data.reader import ShardReader


@dataclass(frozen=True)
class LabelledUsers:
    """A share of all users, chosen by a hash: the users of a smaller share are among those of a
    larger one.

    Args:
        share: of the users.
        seed: of the job, not of training: trainings with several seeds have the same labels.
    """

    share: float
    seed: int

    def __call__(self, user: Ints) -> Bools:
        """[B] whether the interactions of users are labels.

        Args:
            user: [B] internal ids.
        """
        return np.asarray(uniform(self.seed, Stream.LABELLED_USERS, user) < self.share)

    def rows(self, reader: ShardReader) -> Jagged:
        """[G] for every row group the offsets of the histories of these users, rising.

        Raises:
            ShardError: a shard cannot be read.
        """
        found = [
            np.flatnonzero(self(reader.group_column(number, c.USER)))
            for number in range(len(reader.groups))
        ]
        lengths = np.array([len(rows) for rows in found], dtype=np.int64)
        return Jagged(offsets_of(lengths), np.concatenate([np.zeros(0, np.int64), *found]))
