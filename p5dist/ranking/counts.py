"""Matrices of which many or most elements are zero: sparse or whole, some rows, their sums."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

from p5dist.data.jagged import Array, Floats, Ints

Counts: TypeAlias = csr_array | npt.NDArray[np.float32]
"""[B, L]: sparse, or a whole array where too many elements are not zero."""
DENSE = 8
"""A whole array takes less time where more than one element in so many is not zero."""
_CACHED = 1 << 16


def csr32(indptr: Ints, indices: Ints, data: Array, shape: tuple[int, int]) -> csr_array:
    """A float32 matrix with 32-bit indices; arrays of these types are not copied."""
    matrix = csr_array(shape, dtype=np.float32)
    matrix.indptr = np.asarray(indptr).astype(np.int32, copy=False)
    matrix.indices = np.asarray(indices).astype(np.int32, copy=False)
    matrix.data = np.asarray(data).astype(np.float32, copy=False)
    return matrix


def csr_rows(matrix: csr_array, rows: slice) -> csr_array:
    """A range of rows in the same memory."""
    begin, end = int(matrix.indptr[rows.start]), int(matrix.indptr[rows.stop])
    part = csr_array((rows.stop - rows.start, matrix.shape[1]), dtype=matrix.dtype)
    part.indptr = matrix.indptr[rows.start : rows.stop + 1] - matrix.indptr[rows.start]
    part.indices, part.data = matrix.indices[begin:end], matrix.data[begin:end]
    return part


def row_sums(matrix: Counts) -> Floats:
    """[rows]"""
    if isinstance(matrix, np.ndarray):
        whole: Floats = matrix.sum(axis=1, dtype=np.float64)
        return whole
    total = np.zeros(matrix.shape[0])
    for rows in row_pieces(matrix):
        ends = matrix.indptr[rows.start : rows.stop + 1]
        values = matrix.data[ends[0] : ends[-1]].astype(np.float64)
        some = np.flatnonzero(np.diff(ends))
        if len(some):
            total[rows.start + some] = np.add.reduceat(values, ends[some] - ends[0])
    return total


def row_pieces(matrix: csr_array) -> Iterator[slice]:
    """Ranges of rows whose entries a cache of the processor holds (of one row at least)."""
    begin = 0
    while begin < matrix.shape[0]:
        limit = int(matrix.indptr[begin]) + _CACHED
        end = int(np.searchsorted(matrix.indptr, limit, side="right")) - 1
        yield slice(begin, end := min(max(end, begin + 1), matrix.shape[0]))
        begin = end


def whole_rows(matrix: Counts, rows: slice) -> npt.NDArray[np.float32]:
    """A range of rows as an array that can be written to."""
    if isinstance(matrix, np.ndarray):
        copied: npt.NDArray[np.float32] = matrix[rows].copy()
        return copied
    found: npt.NDArray[np.float32] = csr_rows(matrix, rows).toarray()
    return found


def csr_tensor(matrix: csr_array) -> Tensor:
    """The matrix as a float32 tensor with 32-bit indices, in the same memory if it is of these
    types."""
    matrix = csr32(matrix.indptr, matrix.indices, matrix.data, matrix.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        warnings.filterwarnings("ignore", "Sparse (CSR tensor support|invariant checks)")
        indptr, indices, data = (
            torch.from_numpy(array) for array in (matrix.indptr, matrix.indices, matrix.data)
        )
        return torch.sparse_csr_tensor(indptr, indices, data, matrix.shape)
