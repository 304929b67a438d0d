"""Which interactions train, validate and test."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from p5dist import columns as c
from p5dist.config.prepare import GivenSplit, LeaveOneOut
from p5dist.prepare.arrays import Bools, Ints


def split_codes(rule: LeaveOneOut | GivenSplit, lengths: Ints, test: Bools) -> npt.NDArray[np.int8]:
    """[T] columns.TRAIN, VALIDATION or TEST of histories laid end to end.

    Args:
        rule: the split section of the job.
        lengths: [B] interactions of each history.
        test: [T] whether the interaction comes from the test files of a given split.
    """
    code = np.full(int(lengths.sum()), c.TRAIN, np.int8)
    if isinstance(rule, GivenSplit):
        code[test] = c.TEST
        return code
    last = (np.cumsum(lengths) - 1)[lengths >= 3]
    code[last] = c.TEST
    code[last - 1] = c.VALIDATION
    return code


def describe(rule: LeaveOneOut | GivenSplit) -> str:
    """The rule in words, for the manifest and the report."""
    if isinstance(rule, GivenSplit):
        files = rule.test if isinstance(rule.test, str) else ", ".join(rule.test)
        return f"given: the interactions of {files} are test, all others train"
    return (
        "leave one out: the last interaction of a user is test, the one before it validation; "
        "users with fewer than three interactions train only"
    )
