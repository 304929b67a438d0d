"""A matrix on disk in blocks of rows: item and user vectors that no process holds as a whole.

A process maps the blocks that it reads; the operating system keeps in memory what fits, once for
all processes of a machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from p5dist.data.jagged import Ints
from p5dist.storage import Folder
from p5dist.storage.arrays import LocalCopies, write_array

BLOCK = 32_768
"""Rows of a block; the last block may have fewer."""
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Matrix:
    """A float32 matrix [rows, width] in the files ``<name>-<block>.npy`` of a folder."""

    folder: Folder
    name: str
    rows: int
    width: int
    _copies: LocalCopies = field(default_factory=LocalCopies, repr=False)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.rows // BLOCK)

    def range_of(self, block: int) -> tuple[int, int]:
        """First and end row of a block."""
        return block * BLOCK, min((block + 1) * BLOCK, self.rows)

    def write(self, block: int, values: Rows) -> None:
        """Write one block."""
        first, end = self.range_of(block)
        assert values.shape == (end - first, self.width)
        write_array(self.file(block), values.astype(np.float32, copy=False))

    def block(self, block: int) -> Rows:
        """[rows of the block, width], mapped."""
        return self._copies.mapped(self.file(block))

    def take(self, index: Ints) -> Rows:
        """[n, width] the rows ``index`` [n] in that order; only their blocks are mapped, one after
        the other."""
        found = np.empty((len(index), self.width), dtype=np.float32)
        order = None
        if (np.diff(index) < 0).any():
            order = np.argsort(index, kind="stable")
        rising = index if order is None else index[order]
        for block, begin, end in _by_block(rising):
            values = self.block(block)[rising[begin:end] - block * BLOCK]
            found[slice(begin, end) if order is None else order[begin:end]] = values
        return found

    def file(self, block: int) -> Folder:
        """The file of a block."""
        return self.folder / f"{self.name}-{block:06d}.npy"


def _by_block(rising: Ints) -> Iterator[tuple[int, int, int]]:
    """(block, first, end) of the rows ``rising`` in each block."""
    block = rising // BLOCK
    first = np.flatnonzero(np.diff(block, prepend=-1))
    for begin, end in pairwise([*first.tolist(), len(rising)]):
        yield int(block[begin]), begin, end
