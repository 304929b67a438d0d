"""Attribute tables in memory: for every id the value ids of its attributes, as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p5dist.data.jagged import Ints, ranges
from p5dist.storage import Folder


@dataclass(frozen=True)
class Attributes:
    """Attributes of the items or the users of a data set."""

    names: tuple[str, ...]
    offsets: tuple[Ints, ...]
    """Per attribute [ids + 2]: the values of id i are ``values[offsets[i]:offsets[i + 1]]``."""
    values: tuple[Ints, ...]

    @classmethod
    def load(cls, prepare: Folder, side: str, names: tuple[str, ...]) -> Attributes | None:
        """Attributes ``names`` of ``side`` (item or user); None where none is wanted."""
        if not names:
            return None
        table = (prepare / f"attributes/{side}.parquet").read_table(list(names)).combine_chunks()
        offsets, values = [], []
        for name in names:
            lists = table[name].chunk(0)
            # Id 0 (padding) has no values: one more offset in front.
            offsets.append(np.concatenate([[0], np.asarray(lists.offsets)]).astype(np.int64))
            values.append(np.asarray(lists.values, dtype=np.int64))
        return cls(names, tuple(offsets), tuple(values))

    def of(self, ids: Ints) -> tuple[Ints, Ints]:
        """Bags of ``ids`` [U], attribute by attribute: values [V] and lengths
        [attributes · U], the layout of a KeyedJaggedTensor."""
        values, lengths = [], []
        for offsets, flat in zip(self.offsets, self.values, strict=True):
            length = offsets[ids + 1] - offsets[ids]
            values.append(flat[ranges(offsets[ids], length)])
            lengths.append(length)
        return np.concatenate(values), np.concatenate(lengths)
