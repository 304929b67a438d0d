"""The row groups of a data set, numbered from 0 through all of its shards."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from p5dist.data.jagged import Ints, Jagged
from p5dist.data.manifest import Manifest


@dataclass(frozen=True)
class RowGroups:
    """Where each of G row groups is."""

    rows: Ints
    """[G] histories of the group that are taken"""
    shard: Ints
    """[G] index of the shard"""
    in_shard: Ints
    """[G] index of the group in its file"""
    first_row: Ints
    """[G] row number of its first history"""
    chosen: Jagged | None = None
    """[G] offsets from the first row of the histories that are taken; None: all"""

    def only(self, chosen: Jagged) -> RowGroups:
        """The same groups with some of their histories."""
        return replace(self, rows=np.diff(chosen.offsets), chosen=chosen)

    def numbers(self, group: int) -> Ints:
        """[rows] row numbers of the histories of a group, rising."""
        first = int(self.first_row[group])
        if self.chosen is None:
            return first + np.arange(int(self.rows[group]))
        begin, end = self.chosen.offsets[group : group + 2]
        return first + self.chosen.values[begin:end]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, manifest: Manifest, first_row: int = 0) -> RowGroups:
        """The row groups of a data set.

        Args:
            first_row: row number of the data set's first history, where several data sets are
                mixed.
        """
        counts = [np.asarray(shard.groups, dtype=np.int64) for shard in manifest.shards]
        none = np.zeros(0, dtype=np.int64)
        starts = [
            first_row + shard.first_row + np.cumsum(n) - n
            for shard, n in zip(manifest.shards, counts, strict=True)
        ]
        return cls(
            rows=np.concatenate([*counts, none]),
            shard=np.repeat(np.arange(len(counts)), [len(n) for n in counts]).astype(np.int64),
            in_shard=np.concatenate([*(np.arange(len(n)) for n in counts), none]),
            first_row=np.concatenate([*starts, none]),
        )
