"""Ranks and lists.

Ties have one order everywhere: of two items with equal scores the item with the lower id (the more
frequent item) comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged

_CPU = torch.device("cpu")
_CHUNK = 32
_FEW = 16  # chunks of a row that are looked at one by one
_WORTH_CHUNKS = 2  # where there are at least so many chunks for each item of a list
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
        device: of the scores.
        ties: of equal scores at the end of a list the lower id is listed; else any.
    """

    def __init__(
        self, rows: int, k: int, device: torch.device = _CPU, *, ties: bool = True
    ) -> None:
        self.values = torch.full((rows, 0), -torch.inf, device=device)
        self.ids = torch.zeros((rows, 0), dtype=torch.int64, device=device)
        self._k, self._ties = k, ties

    def add(self, scores: Tensor, first: int) -> None:
        """Take in the scores [b, n] of the ids from ``first`` on."""
        if scores.device != _CPU:
            values, index = best_of_chunks(scores, min(self._k, scores.shape[1]))
            self._merge(values, index + first)
            return
        last = self.values[:, -1:] if self.values.shape[1] == self._k else None
        if scores.shape[1] < _WORTH_CHUNKS * _CHUNK * self._k and last is None:
            values, index = best(scores, min(self._k, scores.shape[1]))
        else:
            values, index = _best_of_chunks(scores, self._k, last, ties=self._ties)
        if values.shape[1]:
            self._merge(values, index + first)

    def lists(self) -> Lists:
        """The lists; ids without a score above -inf are 0."""
        missing = self._k - self.values.shape[1]
        values = torch.nn.functional.pad(self.values, (0, missing), value=-torch.inf)
        ids = torch.nn.functional.pad(self.ids, (0, missing))
        ids = torch.where(torch.isneginf(values), 0, ids)
        return Lists(ids.cpu().numpy(), values.cpu().numpy())

    def _merge(self, values: Tensor, ids: Tensor) -> None:
        """Of equal scores, the earlier ones stay before the new ones, whose ids are higher."""
        both = torch.cat([self.values, values], 1)
        found, order = torch.sort(both, dim=1, descending=True, stable=True)
        self.values = found[:, : self._k]
        self.ids = torch.cat([self.ids, ids], 1).gather(1, order[:, : self._k])


def _best_of_chunks(
    scores: Tensor, k: int, last: Tensor | None, *, ties: bool
) -> tuple[Tensor, Tensor]:
    """Values and indices [b, m] that hold all of the k best scores above ``last``; of a row, the
    indices rise, and -inf follows.

    The k best scores are in the k chunks with the largest maxima, and at least as high as the
    smallest of these. One pass for the maxima is several times faster than a search for the k best
    of all.

    Args:
        last: [b, 1]; None: all scores count.
    """
    whole = scores.shape[1] // _CHUNK * _CHUNK
    maxima = scores[:, :whole].view(len(scores), -1, _CHUNK).amax(2)
    if last is not None:
        chunk = np.flatnonzero((maxima > last).numpy())
        if len(chunk) <= _FEW * len(scores):
            row, number = np.divmod(chunk, maxima.shape[1])
            return _above(scores, last, row, number, np.greater)
    if maxima.shape[1] <= _WORTH_CHUNKS * k:
        return best(scores, min(k, scores.shape[1]))
    largest, chosen = torch.topk(maxima, k + 1)
    row = np.repeat(np.arange(len(scores)), k)
    number = chosen[:, :k].sort(1).values.numpy().reshape(-1)
    values, index = _above(scores, largest[:, k - 1 : k], row, number, np.greater_equal)
    # A chunk that was not chosen may have items of the same score as the last chosen one.
    tied = (largest[:, k] == largest[:, k - 1]) & ~torch.isneginf(largest[:, k])
    rows = torch.nonzero(tied).squeeze(1)
    if ties and len(rows):
        values[rows], index[rows] = -torch.inf, 0
        values[rows, :k], index[rows, :k] = best(scores[rows], k)
    return values, index


def _above(
    scores: Tensor, limit: Tensor, row: Ints, chunk: Ints, beyond: Callable[..., Any]
) -> tuple[Tensor, Tensor]:
    """Values and indices [b, m] of the scores ``beyond`` a limit [b, 1] in some chunks of each row
    and after the last chunk.

    Args:
        row, chunk: [c] rising.
    """
    values, limits = scores.numpy(), limit.numpy()
    column = chunk[:, None] * _CHUNK + np.arange(_CHUNK)
    at = np.flatnonzero(beyond(values[row[:, None], column], limits[row]))
    rows, columns = np.repeat(row, _CHUNK)[at], column.reshape(-1)[at]
    whole = scores.shape[1] // _CHUNK * _CHUNK
    if whole < scores.shape[1]:
        more, where = np.nonzero(beyond(values[:, whole:], limits))
        rows = np.concatenate([rows, more])
        order = np.argsort(rows, kind="stable")
        rows, columns = rows[order], np.concatenate([columns, where + whole])[order]
    first = np.searchsorted(rows, np.arange(len(scores)))
    place = np.arange(len(rows)) - first[rows]
    width = int(place.max(initial=-1)) + 1
    found = np.full((len(scores), width), -np.inf, dtype=np.float32)
    index = np.zeros((len(scores), width), dtype=np.int64)
    found[rows, place] = values[rows, columns]
    index[rows, place] = columns
    return torch.from_numpy(found), torch.from_numpy(index)


def best_of_chunks(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As :func:`best`, by operations whose sizes do not depend on values, for a GPU.

    The k best are in the k chunks with the largest maxima, of equal maxima the first chunks: if an
    item of another chunk has the score of the last one listed, then as many items of that score as
    the list has room for are in chosen chunks before it.
    """
    rows, columns = scores.shape
    whole = columns // _CHUNK * _CHUNK
    if whole // _CHUNK <= _WORTH_CHUNKS * k:
        index = _lowest_of_equal(scores, k)
        return scores.gather(1, index), index
    chunks = scores[:, :whole].view(rows, -1, _CHUNK)
    chosen = _lowest_of_equal(chunks.amax(2), k).sort(1).values
    inside = chunks.gather(1, chosen.unsqueeze(2).expand(-1, -1, _CHUNK)).flatten(1)
    places = chosen.unsqueeze(2) * _CHUNK + torch.arange(_CHUNK, device=scores.device)
    rest = torch.arange(whole, columns, device=scores.device).expand(rows, -1)
    values = torch.cat([inside, scores[:, whole:]], 1)
    index = torch.cat([places.flatten(1), rest], 1)
    order = _lowest_of_equal(values, k)
    return values.gather(1, order), index.gather(1, order)


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
    scores: Tensor, row: Ints, index: Ints, wanted: Tensor, mask: npt.NDArray[np.bool_] | None
) -> Tensor:
    """[M] number of items before each target: with a higher score, or an equal score and a lower
    index.

    Args:
        scores: [b, n]
        row: [M] row of the target.
        index: [M] index of the target; less than 0 or at least n if it is not among the scores.
        wanted: [M] score of the target.
        mask: [b, n] room to write to; None if the scores are not in memory of the host.
    """
    found = [torch.zeros(0, dtype=torch.int64, device=scores.device)]
    for begin in range(0, len(row), max(len(scores), 1)):
        part = slice(begin, begin + len(scores))
        asked = scores, row[part], index[part], wanted[part]
        found.append(_before_on_device(*asked) if mask is None else _before_here(*asked, mask))
    return torch.cat(found)


def _before_here(
    scores: Tensor, row: Ints, index: Ints, wanted: Tensor, mask: npt.NDArray[np.bool_]
) -> Tensor:
    values, score = scores.numpy(), wanted.numpy()[:, None]
    rows, columns = values.shape
    others = values if np.array_equal(row, np.arange(rows)) else values[row]
    room = mask[: len(row)]
    higher = _true(np.greater(others, score, out=room))
    equal = np.equal(others, score, out=room)
    ties = np.flatnonzero(_true(equal) > ((index >= 0) & (index < columns)))
    higher[ties] += _true(equal[ties] & (np.arange(columns) < index[ties, None]))
    return torch.from_numpy(higher)


def _before_on_device(scores: Tensor, row: Ints, index: Ints, wanted: Tensor) -> Tensor:
    rows, columns = scores.shape
    others = scores
    if not np.array_equal(row, np.arange(rows)):
        others = scores.index_select(0, placed(row, scores.device))
    place = torch.arange(columns, device=scores.device)
    earlier = place < placed(index, scores.device).unsqueeze(1)
    score = wanted.unsqueeze(1)
    return ((others > score) | ((others == score) & earlier)).sum(1)


def placed(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on ``device``."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def _true(mask: npt.NDArray[np.bool_]) -> Ints:
    """[b] true values in each row: five times faster than a sum, which widens the values first."""
    return np.fromiter(map(np.count_nonzero, mask), np.int64, len(mask))


def _lowest_of_equal(scores: Tensor, k: int) -> Tensor:
    """Indices [b, k] of the best scores, of equal scores the lowest index: sort keys hold the
    score as an integer of the same order in the high 32 bits, the reversed index in the low 32."""
    last = scores.shape[1] - 1
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    place = torch.arange(last + 1, device=scores.device)
    keys = (ordered.long() << 32) + (last - place)
    return last - (torch.topk(keys, k).values & 0xFFFFFFFF)
