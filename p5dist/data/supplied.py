"""Vectors that the user supplies for items or users, such as embeddings of texts and images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p5dist.data.jagged import Bools, Ints
from p5dist.data.matrix import Matrix
from p5dist.storage import Folder


def vectors_of(prepare: Folder, side: str, name: str, ids: int, width: int) -> Matrix:
    """The matrix of an attribute of ``side`` (item or user): row i is the vector of id i; zero
    where there is none."""
    return Matrix(prepare / "vectors", f"{side}.{name}", ids + 1, width)


def has_vectors(matrix: Matrix) -> Bools:
    """[ids] whether each id from 1 has a vector."""
    blocks = (matrix.block(number).any(axis=1) for number in range(matrix.blocks))
    found: Bools = np.concatenate(list(blocks))[1:]
    return found


@dataclass(frozen=True)
class Supplied:
    """The vectors of the items or the users of a data set, mapped from files."""

    matrices: tuple[Matrix, ...]

    @classmethod
    def open(
        cls, prepare: Folder, side: str, names: tuple[str, ...], ids: int, widths: dict[str, int]
    ) -> Supplied | None:
        """The attributes ``names`` of ``side``; None where none is wanted.

        Args:
            ids: largest id.
            widths: by attribute.
        """
        if not names:
            return None
        return cls(tuple(vectors_of(prepare, side, name, ids, widths[name]) for name in names))

    def of(self, ids: Ints) -> npt.NDArray[np.float32]:
        """[n, sum of widths] the vectors of ``ids`` [n], attribute after attribute."""
        return np.concatenate([matrix.take(ids) for matrix in self.matrices], axis=1)
