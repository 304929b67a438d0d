"""Array types, and ranges of a flat array: what jagged columns are made of."""

from __future__ import annotations

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
