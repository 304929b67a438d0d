"""Ranks and lists.

Ties have one order everywhere: of two items with equal scores the item with the lower id (the more
frequent item) comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged

MISSED = int(np.iinfo(np.int64).max)
"""Rank of a target that cannot be listed, since it is a seen item."""


@dataclass(frozen=True)
class Lists:
    """The first k items of each of B histories."""

    ids: Ints
    """[B, k] item ids in falling order of score; 0 after the last item of a shorter list."""
    scores: npt.NDArray[np.float32]
    """[B, k]; -inf for id 0."""


Ranked = tuple[Ints, Lists]
"""[M] ranks (from 1, or MISSED) of targets, and lists."""


class Ranker(Protocol):
    """Ranks the whole catalogue for histories, without a model."""

    @property
    def name(self) -> str:
        """The name under which results show its metrics."""
        ...

    @property
    def fitted_on(self) -> str:
        """What it was fitted on."""
        ...

    @property
    def catalogue(self) -> Catalogue:
        """The items that are ranked."""
        ...

    def rank_and_list(
        self, histories: Histories, owner: Ints, target: Ints, k: int, *, seen: Jagged | None
    ) -> Ranked:
        """Ranks of targets and the k best items of each history.

        Args:
            owner: [M] index of the history of each target, rising.
            target: [M] item ids.
            k: length of the lists, at most the size of the catalogue.
            seen: [B] items that are not listed; None: all items are listed. A target among them has
                the rank MISSED.
        """
        ...


class RunningLists:
    """The k best items of b users, from blocks of scores whose ids rise.

    Args:
        rows: b
    """

    def __init__(self, rows: int, k: int) -> None:
        self.values = torch.full((rows, 0), -torch.inf)
        self.ids = torch.zeros((rows, 0), dtype=torch.int64)
        self._k = k

    def add(self, scores: Tensor, first: int, mask: npt.NDArray[np.bool_]) -> None:
        """Take in the scores [b, n] of the ids from ``first`` on.

        Args:
            mask: [b, n] room to write to.
        """
        if self.values.shape[1] == self._k:
            last = self.values[:, -1:].numpy()
            np.greater(scores.numpy(), last, out=mask)
            row, column = np.nonzero(mask)
            width = int(np.bincount(row).max(initial=0))
            if not width:
                return
            if width * 8 < scores.shape[1]:
                self._merge(*_rectangle(scores, row, column, width, first))
                return
        values, index = best(scores, min(self._k, scores.shape[1]))
        self._merge(values, index + first)

    def lists(self) -> Lists:
        """The lists; ids without a score above -inf are 0."""
        missing = self._k - self.values.shape[1]
        values = torch.nn.functional.pad(self.values, (0, missing), value=-torch.inf)
        ids = torch.nn.functional.pad(self.ids, (0, missing))
        return Lists(torch.where(torch.isneginf(values), 0, ids).numpy(), values.numpy())

    def _merge(self, values: Tensor, ids: Tensor) -> None:
        """Of equal scores, the earlier ones stay before the new ones, whose ids are higher."""
        both = torch.cat([self.values, values], 1)
        found, order = torch.sort(both, dim=1, descending=True, stable=True)
        self.values = found[:, : self._k]
        self.ids = torch.cat([self.ids, ids], 1).gather(1, order[:, : self._k])


def _rectangle(
    scores: Tensor, row: Ints, column: Ints, width: int, first: int
) -> tuple[Tensor, Tensor]:
    """Values and ids [b, width] of some scores, left-aligned in each row."""
    rows = scores.shape[0]
    start = np.searchsorted(row, np.arange(rows))
    at = torch.from_numpy(row), torch.from_numpy(np.arange(len(row)) - start[row])
    values = torch.full((rows, width), -torch.inf)
    ids = torch.zeros((rows, width), dtype=torch.int64)
    columns = torch.from_numpy(column)
    values[at] = scores[at[0], columns]
    ids[at] = columns + first
    return values, ids


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices [b, k] of the best scores [b, n], by falling value, then rising index."""
    width = min(k + 1, scores.shape[1])
    values, index = torch.topk(scores, width)
    if width > k:
        # torch.topk takes any of equal values, which matters at the end of the list.
        tied = (values[:, k - 1] == values[:, k]) & ~torch.isneginf(values[:, k])
        rows = torch.nonzero(tied).squeeze(1)
        values, index = values[:, :k], index[:, :k]
        index[rows] = _lowest_of_equal(scores[rows], k)
        values[rows] = scores[rows[:, None], index[rows]]
    index, order = torch.sort(index)
    values, order = torch.sort(values.gather(1, order), descending=True, stable=True)
    return values, index.gather(1, order)


def before(
    scores: Tensor, row: Ints, index: Ints, wanted: Tensor, mask: npt.NDArray[np.bool_]
) -> Ints:
    """[M] number of items before each target: with a higher score, or an equal score and a lower
    index.

    Args:
        scores: [b, n]
        row: [M] row of the target.
        index: [M] index of the target; less than 0 or at least n if it is not among the scores.
        wanted: [M] score of the target.
        mask: [b, n] room to write to.
    """
    found = np.empty(len(row), dtype=np.int64)
    values, own = scores.numpy(), wanted.numpy()
    rows, columns = values.shape
    for begin in range(0, len(row), rows):
        part = slice(begin, begin + rows)
        at, score, place = row[part], own[part, None], index[part]
        others = values if np.array_equal(at, np.arange(rows)) else values[at]
        room = mask[: len(at)]
        higher = _true(np.greater(others, score, out=room))
        equal = np.equal(others, score, out=room)
        ties = np.flatnonzero(_true(equal) > ((place >= 0) & (place < columns)))
        higher[ties] += _true(equal[ties] & (np.arange(columns) < place[ties, None]))
        found[part] = higher
    return found


def _true(mask: npt.NDArray[np.bool_]) -> Ints:
    """[b] true values in each row: five times faster than a sum, which widens the values first."""
    return np.fromiter(map(np.count_nonzero, mask), np.int64, len(mask))


def _lowest_of_equal(scores: Tensor, k: int) -> Tensor:
    """Indices [b, k] of the best scores, of equal scores the lowest index: sort keys hold the
    score as an integer of the same order in the high 32 bits, the reversed index in the low 32."""
    last = scores.shape[1] - 1
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (ordered.long() << 32) + (last - torch.arange(last + 1))
    return last - (torch.topk(keys, k).values & 0xFFFFFFFF)
