"""Random numbers that are pure functions of their coordinates.

Order, windows and negatives must be the same on any number of workers and in any version of
NumPy, so they come from a fixed 64-bit hash and not from a generator with a state.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The increment of SplitMix64: 2⁶⁴ divided by the golden ratio."""


@unique
class Stream(IntEnum):
    """The use of a random number: the second coordinate of its hash, after the seed of the job.
    Numbers of different streams are independent. Kinds of other packages number their streams from
    1000 on."""

    ROW_GROUPS = 1
    ROWS = 2
    WINDOWS = 3
    NEGATIVES = 4
    DROPOUT = 5
    SHUFFLED_HISTORIES = 6
    ITEM_DROPOUT = 9
    IN_BATCH_NEGATIVES = 10
    DATA_SETS = 12
    MASKED_POSITIONS = 21
    MASKED_LAST = 22
    MASKED_HOW = 23
    MASKED_OTHER_ITEM = 24
    MASKED_END = 25
    SKIP_GRAM_WINDOW = 26
    CLICK_NEGATIVES = 27
    EVALUATED_USERS = 28
    SKIP_GRAM_KEPT = 29
    LABELLED_USERS = 30
    VIEWS = 31
    VIEW_DROPOUT = 32
    SHADOWS = 33


def splitmix(x: UInts) -> UInts:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInts = x ^ (x >> np.uint64(31))
    return mixed


def hashed(*coordinates: int | npt.NDArray[np.integer]) -> UInts:
    """A 64-bit hash of the coordinates, which are broadcast against each other (at least 1-d)."""
    h = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for x in coordinates:
            values = np.atleast_1d(np.asarray(x)).astype(np.int64).view(np.uint64)
            h = splitmix(h + GOLDEN + values)
    return h


def uniform(*coordinates: int | npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits."""
    bits = hashed(*coordinates) >> np.uint64(11)
    return np.asarray(bits * 2.0**-53, dtype=np.float64)


def permutation(n: int, *coordinates: int) -> npt.NDArray[np.int64]:
    """A permutation of 0…n-1."""
    return np.argsort(hashed(*coordinates, np.arange(n)), kind="stable")
