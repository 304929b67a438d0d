"""Which interactions train, validate and test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt

from p5dist.config.prepare import (
    GivenSplit,
    ItemVocabulary,
    LeaveOneOut,
    Prepare,
    RatioSplit,
    TimeSplit,
    seconds,
)
from p5dist.data import columns as c
from p5dist.data.jagged import Ints, ranges
from p5dist.prepare.interactions import Interactions

SplitRule = LeaveOneOut | TimeSplit | RatioSplit | GivenSplit
HISTOGRAM_BINS = 100_000


@dataclass(frozen=True)
class Cuts:
    """First second of validation and of test."""

    validation: int
    test: int

    @classmethod
    def at_times(cls, rule: TimeSplit) -> Cuts:
        assert isinstance(rule.test, datetime)
        test = seconds(rule.test)
        first = rule.validation
        return cls(seconds(first) if isinstance(first, datetime) else test, test)

    @classmethod
    def at_shares(cls, rule: TimeSplit, histogram: Ints, low: int, width: int) -> Cuts:
        """The latest cuts at edges of the histogram that leave at least the shares behind them.

        Args:
            histogram: [bins] interactions with time in ``low + i · width`` … ``+ width``.
        """
        behind = np.cumsum(histogram[::-1])[::-1]

        def cut(share: float) -> int:
            return low + width * int(np.flatnonzero(behind >= share * behind[0])[-1])

        assert isinstance(rule.test, float)
        before = rule.validation if isinstance(rule.validation, float) else 0.0
        return cls(cut(rule.test + before), cut(rule.test))


def bin_width(low: int, high: int) -> int:
    """Seconds of a bin, so that ``low`` … ``high`` has at most HISTOGRAM_BINS."""
    return (high - low) // HISTOGRAM_BINS + 1


def split_codes(
    rule: SplitRule, lengths: Ints, rows: Interactions, cuts: Cuts | None
) -> npt.NDArray[np.int8]:
    """[T] columns.TRAIN, VALIDATION or TEST of histories laid end to end.

    Args:
        rule: the split section of the job.
        lengths: [B] interactions of each history.
        rows: [T]
        cuts: of a time split.
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
    if isinstance(rule, RatioSplit):
        test = np.floor(lengths * rule.test).astype(np.int64)
        validation = np.floor(lengths * rule.validation).astype(np.int64)
    else:
        test = validation = (lengths >= 3).astype(np.int64)
    tests = np.cumsum(lengths) - test
    code[ranges(tests - validation, validation)] = c.VALIDATION
    code[ranges(tests, test)] = c.TEST
    return code


def describe(rule: SplitRule, cuts: Cuts | None = None) -> str:
    """The rule in words, for the manifest and the report."""
    if isinstance(rule, GivenSplit):
        test = f"those of {_names(rule.test)} test, all others train"
        if rule.validation is not None:
            test = f"those of {_names(rule.validation)} validate, {test}"
        return f"given: of the interactions, {test}"
    if isinstance(rule, TimeSplit):
        assert cuts is not None
        words = f"test from {_text(cuts.test)} on"
        if rule.validation is not None:
            words = f"validation from {_text(cuts.validation)} on, {words}"
        return f"time: {words}, for all users"
    if isinstance(rule, RatioSplit):
        return (
            f"ratio: the last {rule.test:g} of a history is test, the {rule.validation:g} before "
            "it validation, both rounded down"
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


def _text(time: int) -> str:
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
