"""Interactions that the encoder does not see, and the hidden next one of a masked model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Ints


@dataclass(frozen=True)
class Hidden:
    """The chosen positions of a batch's T interactions."""

    predicted: Bools
    """[T] chosen"""
    hidden: Bools
    """[T] the encoder sees the mask and nothing else"""
    shown: Ints
    """[T] item id that the encoder sees where nothing is hidden"""


class Masking(Protocol):
    """Chooses the interactions that an objective hides in training. A batch has one masking, since
    all tasks of a stage read the same states."""

    def cut(self, histories: Histories, step: int) -> Histories:
        """The histories as they are trained on, some of them ending earlier."""
        ...

    def __call__(self, histories: Histories, step: int) -> Hidden:
        """The choices for global step ``step``: a function of (seed, step, row, position)."""
        ...


def known_times(histories: Histories, hidden: Bools) -> Ints:
    """[T] times that the encoder sees: a hidden interaction has the time of the last interaction
    before it that is not hidden; at the start of a history, of the first one that is not hidden; 0
    if all are hidden.

    Nobody knows the time of the next interaction when it is to be ranked, and encoders that see the
    past only do not see it either. With its own time, a hidden interaction would tell in training
    what it cannot tell in ranking.
    """
    owner, place, end = histories.owner(), np.arange(len(hidden)), len(hidden)
    last = np.maximum.accumulate(np.where(hidden, -1, place))
    first = np.minimum.accumulate(np.where(hidden, end, place)[::-1])[::-1]
    shown = np.where(last >= histories.offsets[:-1][owner], last, first)
    there = shown < histories.offsets[1:][owner]
    times: Ints = np.where(there, histories.timestamp[np.where(there, shown, 0)], 0)
    return times


def with_masked_next(histories: Histories) -> tuple[Histories, Hidden]:
    """Every history with one more, hidden interaction at its end, at which a masked model predicts
    the next item; its time is not known (see :func:`known_times`)."""
    ends = histories.offsets[1:]

    def longer(values: npt.NDArray[Any], added: Any) -> npt.NDArray[Any]:
        return np.insert(values, ends, added)

    found = replace(
        histories,
        offsets=histories.offsets + np.arange(len(ends) + 1),
        item=longer(histories.item, 0),
        timestamp=longer(histories.timestamp, 0),
        event=longer(histories.event, 0),
        rating=longer(histories.rating, np.nan),
        split=longer(histories.split, 0),
    )
    hidden = longer(np.zeros(len(histories.item), dtype=bool), True)
    return found, Hidden(hidden, hidden, found.item)
