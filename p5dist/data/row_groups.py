"""The row groups of a data set, numbered from 0 through all of its shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest


@dataclass(frozen=True)
class RowGroups:
    """Where each of G row groups is."""

    rows: Ints
    """[G] histories in the group"""
    shard: Ints
    """[G] index of the shard"""
    in_shard: Ints
    """[G] index of the group in its file"""
    first_row: Ints
    """[G] row number of its first history"""

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
