"""A matrix on disk in blocks of rows: item and user vectors that no process holds as a whole.

A process maps the blocks that it reads; the operating system keeps in memory what fits, once for
all processes of a machine.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p5dist.data.jagged import Ints
from p5dist.storage import Folder

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
    _copies: _Copies = field(default_factory=lambda: _Copies(), repr=False)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.rows // BLOCK)

    @property
    def bytes(self) -> int:
        """Size of the whole matrix."""
        return 4 * self.rows * self.width

    def range_of(self, block: int) -> tuple[int, int]:
        """First and end row of a block."""
        return block * BLOCK, min((block + 1) * BLOCK, self.rows)

    def write(self, block: int, values: Rows) -> None:
        """Write one block."""
        first, end = self.range_of(block)
        assert values.shape == (end - first, self.width)
        data = io.BytesIO()
        np.save(data, np.ascontiguousarray(values, dtype=np.float32), allow_pickle=False)
        self._file(block).write_bytes(data.getbuffer())

    def block(self, block: int) -> Rows:
        """[rows of the block, width], mapped."""
        path = self._copies.path(self._file(block))
        mapped: Rows = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped

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

    def _file(self, block: int) -> Folder:
        return self.folder / f"{self.name}-{block:06d}.npy"


def _by_block(rising: Ints) -> Iterator[tuple[int, int, int]]:
    """(block, first, end) of the rows ``rising`` in each block."""
    block = rising // BLOCK
    first = np.flatnonzero(np.diff(block, prepend=-1))
    for begin, end in zip(first, [*first[1:], len(rising)], strict=True):
        yield int(block[begin]), int(begin), int(end)


class _Copies:
    """Local copies of files on an object store, for as long as this process lives."""

    def __getstate__(self) -> dict[str, object]:
        return {}  # every process has copies of its own

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="p5dist-")

    def path(self, file: Folder) -> str:
        """Path of a file, or of its copy."""
        if file.is_local:
            return file.path
        copy = Path(self._folder.name) / file.name
        if not copy.exists():
            copy.write_bytes(file.read_bytes())
        return str(copy)
