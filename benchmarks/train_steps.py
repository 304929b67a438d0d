"""Code that the programs compared by train.py share. Standard library only: they run in separate
environments."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def arguments() -> argparse.Namespace:
    """The command line of a program: the sequences, and the sizes, equal for all programs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sequences", type=Path, help="a line a user: user item item …")
    for name in ("dim", "layers", "heads", "batch", "length", "warm-up", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--dropout", type=float, required=True)
    return parser.parse_args()


def histories(sequences: Path) -> Iterator[tuple[str, list[str]]]:
    """User and items of every line."""
    for line in sequences.read_text().splitlines():
        user, *items = line.split()
        yield user, items


class Clock:
    """Counts the targets of the steps after the warm-up, and their seconds; loading included.

    Args:
        warm_up, steps: number of steps before and in the measurement; :attr:`over` is true after
            all steps.
    """

    def __init__(self, warm_up: int, steps: int) -> None:
        self._warm_up, self._steps = warm_up, steps
        self._done = self._targets = 0
        self._began = self._ended = time.perf_counter()

    @property
    def over(self) -> bool:
        return self._done >= self._warm_up + self._steps

    def step(self, targets: int) -> None:
        """Count a finished step with ``targets`` positions that have a loss."""
        self._done += 1
        now = time.perf_counter()
        if self._done <= self._warm_up:
            self._began = now
        else:
            self._targets += targets
            self._ended = now

    def show(self, **facts: Any) -> None:
        """Print what train.py reads, as the last line."""
        seconds = self._ended - self._began
        print(json.dumps({"targets": self._targets, "seconds": seconds, **facts}))
