"""Array types, and ranges of a flat array: the parts of jagged columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """[sum of lengths] the whole numbers ``starts[i]`` … ``starts[i] + lengths[i] - 1``, range
    after range.

    Args:
        starts, lengths: [n]
    """
    before = np.cumsum(lengths) - lengths
    first: Ints = np.repeat(starts - before, lengths)
    first += np.arange(len(first), dtype=np.int64)
    return first


def offsets_of(lengths: Ints) -> Ints:
    """[n + 1] where each of n ranges of these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass(frozen=True)
class Jagged:
    """n lists of whole numbers, end to end."""

    offsets: Ints
    """[n + 1]"""
    values: Ints
    """[T] list i is ``values[offsets[i]:offsets[i + 1]]``."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """[n]"""
        return np.diff(self.offsets)

    def owner(self) -> Ints:
        """[T] index of the list that each value is in."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def take(self, index: Ints) -> Jagged:
        """Lists ``index`` in that order."""
        lengths = self.lengths[index]
        return Jagged(offsets_of(lengths), self.values[ranges(self.offsets[:-1][index], lengths)])

    @classmethod
    def concat(cls, parts: Sequence[Jagged]) -> Jagged:
        """All lists of the parts, one part after the other."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(offsets_of(lengths), np.concatenate([part.values for part in parts]))


def contains(keys: Ints, wanted: Ints) -> Bools:
    """Whether each of ``wanted`` (any shape) is among ``keys``, which rise."""
    if not len(keys):
        return np.zeros(wanted.shape, dtype=bool)
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: Bools = keys[index] == wanted
    return found


def distinct(keys: Ints) -> Ints:
    """The distinct keys, rising; several times faster than np.unique, which hashes."""
    keys = np.sort(keys)
    return keys[np.diff(keys, prepend=keys[:1] - 1) > 0]
