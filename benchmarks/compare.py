"""Is a newer result worse than an older one by more than the noise?

::

    python benchmarks/compare.py OLD.json NEW.json

Two results of the same benchmark, such as those of ``make bench`` before and after a change. The
noise of a number is the spread of its runs: a change counts if all runs of one result are better
than all runs of the other, which needs at least three runs in each (by chance: one time in twenty
with three, one in 252 with five). Exits with 1 on a regression, with 2 if the results cannot be
compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FEWEST = 3
"""Fewest runs that distinguish a change from noise."""

Verdict = Literal["better", "worse", "same", "too few runs"]


@dataclass(frozen=True)
class Change:
    """One number of the benchmark in both results."""

    name: str
    old: list[float]
    new: list[float]
    better: Literal["higher", "lower"]

    @property
    def relative(self) -> float:
        """Change of the median ÷ the old median."""
        before, after = statistics.median(self.old), statistics.median(self.new)
        return after / before - 1 if before else 0.0 if before == after else float("inf")

    @property
    def verdict(self) -> Verdict:
        if min(len(self.old), len(self.new)) < FEWEST:
            return "too few runs"
        sign = 1 if self.better == "higher" else -1
        old, new = ([sign * value for value in values] for values in (self.old, self.new))
        if max(new) < min(old):
            return "worse"
        return "better" if min(new) > max(old) else "same"


class IncomparableError(ValueError):
    """The results are not of the same benchmark and settings."""


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Every number that both results have and that has a direction (``better``) in the newer one.

    Raises:
        IncomparableError: another benchmark, other settings, or nothing in common.
    """
    for key in ("question", "settings"):
        if old.get(key) != new.get(key):
            raise IncomparableError(
                f"{key} differs: {old.get(key)} and {new.get(key)}; run both alike"
            )
    before, after = (dict(numbers(result["runs"])) for result in (old, new))
    found = [
        Change(name, before[name], after[name], better)
        for name in after
        if name in before and (better := new.get("better", {}).get(name.rsplit(": ", 1)[-1]))
    ]
    if not found:
        raise IncomparableError("the results have no number in common that is to be compared")
    return found


def numbers(runs: Any, prefix: str = "") -> Iterator[tuple[str, list[float]]]:
    """The values of every number that all runs have, by ``what was measured: name``."""
    if isinstance(runs, dict):
        for name, inner in runs.items():
            yield from numbers(inner, f"{name}: ")
        return
    for name in runs[0]:
        values = [run.get(name) for run in runs]
        if all(isinstance(value, (int, float)) for value in values):
            yield f"{prefix}{name}", values


def _line(change: Change) -> str:
    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"

    return (
        f"| {change.name} | {spread(change.old)} | {spread(change.new)} | {change.relative:+.1%} "
        f"| {change.verdict} |"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    try:
        old, new = (json.loads(place.read_text()) for place in (arguments.old, arguments.new))
        found = changes(old, new)
    except (OSError, KeyError, ValueError) as e:
        parser.error(f"{arguments.old} and {arguments.new} cannot be compared: {e}")
    print(f"{new['question']}\n")
    for key in ("machine", "versions"):
        if old.get(key) != new.get(key):
            print(f"{key} differs, which may be the reason: {old.get(key)} and {new.get(key)}\n")
    print("| number | old (runs) | new (runs) | change | verdict |\n|---|---|---|---|---|")
    print(*map(_line, found), sep="\n")
    return int(any(change.verdict == "worse" for change in found))


if __name__ == "__main__":
    sys.exit(main())
