"""Sparse matrices in the same memory: with other types, some rows, as a tensor."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from p5dist.data.jagged import Array, Ints


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
