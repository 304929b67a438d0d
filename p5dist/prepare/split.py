"""Which interactions train, validate and test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from p5dist.config.prepare import ItemVocabulary, Prepare
from p5dist.config.splits import (
    GivenSplit,
    LeaveOneOut,
    RatioSplit,
    TimeSplit,
    microseconds,
)
from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints, ranges
from p5dist.prepare.interactions import Interactions

SplitRule = LeaveOneOut | TimeSplit | RatioSplit | GivenSplit
# The years 1 to 9999.
_FIRST, _END = -62_135_596_800 * c.SECOND, 253_402_300_800 * c.SECOND


@dataclass(frozen=True)
class Cuts:
    """First time of validation and of test: microseconds since 1970, or the number of the row where
    the log has no time."""

    validation: int
    test: int

    @classmethod
    def at_times(cls, rule: TimeSplit) -> Cuts:
        assert isinstance(rule.test, datetime)
        test = microseconds(rule.test)
        first = rule.validation
        return cls(microseconds(first) if isinstance(first, datetime) else test, test)


def exact(share: float) -> Fraction:
    """A share as its decimal digits are written: 0.29 is 29/100."""
    return Fraction(repr(share))


AFTER_TEST = -1
"""Of interactions after a test interaction, which are dropped."""


def split_codes(
    rule: SplitRule,
    lengths: Ints,
    rows: Interactions,
    cuts: Cuts | None,
    held_out: Bools | None = None,
) -> npt.NDArray[np.int8]:
    """[T] columns.TRAIN, VALIDATION or TEST, or :data:`AFTER_TEST`, of histories laid end to end.

    Args:
        rule: the split section of the job.
        lengths: [B] interactions of each history.
        rows: [T]
        cuts: of a time split.
        held_out: [T] the interactions that leave-one-out may hold out; None: all.
    """
    code = np.full(len(rows), c.TRAIN, np.int8)
    if isinstance(rule, GivenSplit):
        assert rows.part is not None
        return rows.part
    if isinstance(rule, TimeSplit):
        assert cuts is not None
        code[rows.time >= cuts.validation] = c.VALIDATION
        code[rows.time >= cuts.test] = c.TEST
        return code
    if held_out is not None:
        return _last_two(lengths, held_out)
    if isinstance(rule, RatioSplit):
        test = _rounded_down(lengths, rule.test)
        validation = _rounded_down(lengths, rule.validation)
    else:
        test = validation = (lengths >= 3).astype(np.int64)
    tests = np.cumsum(lengths) - test
    code[ranges(tests - validation, validation)] = c.VALIDATION
    code[ranges(tests, test)] = c.TEST
    return code


def _last_two(lengths: Ints, held_out: Bools) -> npt.NDArray[np.int8]:
    """[T] the codes where the last two interactions ``held_out`` [T] of a history are validation
    and test."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    at = np.flatnonzero(held_out)
    behind = np.searchsorted(at, ends)  # place after the last one of each history
    two = behind - np.searchsorted(at, starts) >= 2
    padded = np.append(at, [0, 0])
    test, validation = padded[behind - 1], padded[behind - 2]
    two &= validation > starts
    before, between, after = validation - starts, test - validation, ends - test - 1
    codes = np.full(len(held_out), c.TRAIN, np.int8)
    for code, begin, number in (
        (c.VALIDATION, starts + before, between),
        (c.TEST, test, np.ones_like(test)),
        (AFTER_TEST, test + 1, after),
    ):
        codes[ranges(begin[two], number[two])] = code
    return codes


def _rounded_down(lengths: Ints, share: float) -> Ints:
    """[B] ``share`` of each length, rounded down."""
    distinct, index = np.unique(lengths, return_inverse=True)
    counts = [int(length * exact(share)) for length in distinct.tolist()]
    return np.array(counts, np.int64)[index]


def describe(prepare: Prepare, cuts: Cuts | None = None) -> str:
    """The rule in words, for the manifest and the report."""
    rule = prepare.split
    if isinstance(rule, GivenSplit):
        test = f"those of {_names(rule.test)} test, all others train"
        if rule.validation is not None:
            test = f"those of {_names(rule.validation)} validate, {test}"
        return f"given: of the interactions, {test}"
    if isinstance(rule, TimeSplit):
        assert cuts is not None
        timed = prepare.source.columns.timestamp is not None
        words = f"test from {_text(cuts.test, timed)} on"
        if rule.validation is not None:
            words = f"validation from {_text(cuts.validation, timed)} on, {words}"
        return f"time: {words}, for all users"
    if isinstance(rule, RatioSplit):
        return (
            f"ratio: the last {rule.test:g} of a history is test, the {rule.validation:g} before "
            "it validation, both rounded down"
        )
    if rule.events is not None:
        names = " or ".join(rule.events)
        return (
            f"leave one out: the last {names} of a history is test, the one before it validation, "
            "later interactions are dropped; histories with fewer than two, or with nothing before "
            "them, train only"
        )
    return (
        "leave one out: the last interaction of a history is test, the one before it validation; "
        "histories with fewer than three interactions train only"
    )


def knows(prepare: Prepare) -> dict[str, str]:
    """The interactions that each part of the prepared data was made from: whether validation and
    test were among them."""
    vocabulary: ItemVocabulary = prepare.vocabulary
    items = "all interactions" if vocabulary.of == "all" else "training interactions"
    if vocabulary.extend is not None:
        items += f", and the items of {vocabulary.extend}"
    cleaning = prepare.clean
    filtered = cleaning.min_user_interactions > 1 or cleaning.min_item_interactions > 1
    return {
        "training histories": "training interactions",
        "item vocabulary": items,
        "counts and statistics": "training interactions",
        **({"k-core": "all interactions, before the split"} if filtered else {}),
    }


def _names(files: str | tuple[str, ...]) -> str:
    return files if isinstance(files, str) else ", ".join(files)


def _text(time: int, timed: bool) -> str:
    if not timed:
        return f"interaction {time + 1:,} of the log"
    if not _FIRST <= time < _END:
        return f"{time / c.SECOND:,.0f} seconds after 1970"
    moment = datetime.fromtimestamp(time // c.SECOND, timezone.utc)
    return moment.replace(microsecond=time % c.SECOND).isoformat().replace("+00:00", "Z")
