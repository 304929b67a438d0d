"""The cuts of a time split at shares of all interactions: exact, by counting in bins that become
narrower from round to round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np

from p5dist.config.splits import TimeSplit
from p5dist.data.jagged import Ints
from p5dist.prepare.split import Cuts, exact

_BINS = 1 << 17
_NOTABLE = 0.01
"""Difference from a share, relative to it, that users are told."""


@dataclass(frozen=True)
class Bins:
    """Bins of ``width`` (a time each where it is 1) from ``low`` on."""

    low: int
    width: int
    number: int

    @classmethod
    def over(cls, low: int, high: int) -> Bins:
        """Bins that hold the times ``low`` … ``high``, as narrow as their number allows."""
        width = (high - low) // _BINS + 1
        return cls(low, width, (high - low) // width + 1)

    def counts(self, times: Ints) -> Ints:
        """[number] how many of ``times`` each bin holds."""
        index = (times - self.low) // self.width
        return np.bincount(index[(index >= 0) & (index < self.number)], minlength=self.number)


@dataclass
class ShareCut:
    """The search for the latest time from which on there are at least ``share`` of all
    interactions: every round counts the interactions in bins, and goes on inside the bin with that
    time.

    Args:
        share: exact.
        low, high: the first time and the last.
    """

    share: Fraction
    low: int
    high: int
    total: int = 0
    needed: int = 0
    behind: int = 0
    """Interactions after the bins."""
    found: bool = False

    def bins(self) -> Bins:
        return Bins.over(self.low, self.high)

    def narrow(self, counts: Ints) -> None:
        """Take the counts of :meth:`bins`."""
        bins = self.bins()
        if not self.total:
            self.total = int(counts.sum())
            self.needed = ceil(self.share * self.total)
        from_bin = np.cumsum(counts[::-1])[::-1] + self.behind
        at = int(np.flatnonzero(from_bin >= self.needed)[-1])
        self.low += bins.width * at
        self.high = self.low + bins.width - 1
        self.found = bins.width == 1
        # With the cut itself once it is found.
        self.behind = int(from_bin[at] if self.found else from_bin[at] - counts[at])


def find_cuts(
    rule: TimeSplit, low: int, high: int, count: Callable[[list[Bins]], list[Ints]]
) -> tuple[Cuts, list[str]]:
    """The cuts at shares, and a warning for each share that interactions at one time prevent.

    Args:
        low, high: the first time of the log and the last.
        count: counts the interactions in bins, [number] for each of the Bins.
    """
    assert isinstance(rule.test, float)
    shares = {"test": rule.test}
    if isinstance(rule.validation, float):
        shares["validation"] = rule.validation
    searches, behind = [], Fraction(0)
    for share in shares.values():
        behind += exact(share)
        searches.append(ShareCut(behind, low, high))
    while going_on := [search for search in searches if not search.found]:
        counts = count([search.bins() for search in going_on])
        for search, found in zip(going_on, counts, strict=True):
            search.narrow(found)
    warnings, asked, there = [], 0, 0
    for (name, share), search in zip(shares.items(), searches, strict=True):
        asked, there = search.needed - asked, search.behind - there
        if abs(there - asked) > _NOTABLE * asked:
            warnings.append(
                f"prepare.split: {name} has {there / search.total:.4g} of all interactions instead "
                f"of {share:g}, since interactions at one time stay together"
            )
        asked, there = search.needed, search.behind
    return Cuts(searches[-1].low, searches[0].low), warnings
