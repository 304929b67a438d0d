"""Exact ranking over the whole catalogue.

Ties have one order everywhere: of two items with equal scores the item with the lower id (the more
frequent item) comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged
from p5dist.errors import TrainingError

BLOCK = 1 << 25
"""Scores held at once (128 MB of float32); one history's scores are never split."""


class Ranker(Protocol):
    """Scores the whole catalogue for histories."""

    @property
    def name(self) -> str:
        """The name under which results show its metrics."""
        ...

    @property
    def catalogue(self) -> Catalogue:
        """The items that are ranked."""
        ...

    def blocks(self, histories: Histories) -> Iterator[tuple[slice, Tensor]]:
        """(slice of b histories, scores [b, L] float32 over the ids 1…L) per block; L is the
        largest id of the catalogue. :func:`scores_of` replaces the scores of ids that no item has.

        The caller may write into the scores.
        """
        ...


@runtime_checkable
class DirectRanker(Protocol):
    """A :class:`Ranker` that finds ranks and lists without the scores of the whole catalogue."""

    def rank_and_list(
        self, histories: Histories, owner: Ints, target: Ints, k: int, *, seen: Jagged | None
    ) -> tuple[Ints, Lists]:
        """As the function of the same name; k is at most the size of the catalogue."""
        ...


class Vectors(Protocol):
    """A model whose scores are inner products of user and item vectors."""

    catalogue: Catalogue

    def item_vectors(self) -> Tensor:
        """[L, dim], L the largest id; row i belongs to item id i + 1."""
        ...

    def user_vectors(self, histories: Histories) -> Tensor:
        """[B, dim]"""
        ...


class VectorRanker:
    """Ranks by the inner products of a model's user and item vectors."""

    name = "model"

    def __init__(self, model: Vectors) -> None:
        self.catalogue = model.catalogue
        self._model = model
        self._item_vectors = model.item_vectors()

    @torch.no_grad()
    def blocks(self, histories: Histories) -> Iterator[tuple[slice, Tensor]]:
        """See :class:`Ranker`."""
        users = self._model.user_vectors(histories)
        for rows in row_blocks(len(histories), self.catalogue.largest):
            yield rows, users[rows] @ self._item_vectors.T


@dataclass(frozen=True)
class Lists:
    """The first k items of each of B histories."""

    ids: Ints
    """[B, k] item ids in falling order of score; 0 after the last item of a shorter list."""
    scores: npt.NDArray[np.float32]
    """[B, k]; -inf for id 0."""


def row_blocks(rows: int, items: int, size: int = 1) -> Iterator[slice]:
    """Slices of rows such that rows · items · size is at most BLOCK (but at least one row each)."""
    step = max(1, BLOCK // (items * size))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


MISSED = int(np.iinfo(np.int64).max)
"""Rank of a target that cannot be listed, since it is a seen item."""


def scores_of(ranker: Ranker, histories: Histories) -> Iterator[tuple[slice, Tensor]]:
    """:meth:`Ranker.blocks`, with the score -inf for every id that no item has."""
    absent = torch.from_numpy(ranker.catalogue.absent - 1)
    for rows, scores in ranker.blocks(histories):
        yield rows, scores.index_fill_(1, absent, -torch.inf)


def top_k(ranker: Ranker, histories: Histories, k: int, *, seen: Jagged | None) -> Lists:
    """The k best items of each history, or the whole catalogue if it has fewer items.

    Args:
        seen: [B] items that are not listed; None: all items are listed.

    Raises:
        TrainingError: a score is NaN.
    """
    return rank_and_list(ranker, histories, _NONE, _NONE, k, seen=seen)[1]


def rank_of(
    ranker: Ranker, histories: Histories, owner: Ints, target: Ints, *, seen: Jagged | None
) -> Ints:
    """The rank (from 1) of item id ``target[m]`` for history ``owner[m]``.

    Args:
        owner: [M] index of the history, rising.
        target: [M]
        seen: [B] items that are left out; None: none. A left-out target has the rank MISSED.

    Returns:
        [M]

    Raises:
        TrainingError: a score is NaN.
    """
    return rank_and_list(ranker, histories, owner, target, 1, seen=seen)[0]


@torch.no_grad()
def rank_and_list(
    ranker: Ranker,
    histories: Histories,
    owner: Ints,
    target: Ints,
    k: int,
    *,
    seen: Jagged | None,
) -> tuple[Ints, Lists]:
    """:func:`rank_of` and :func:`top_k` with the scores computed once."""
    k = min(k, len(ranker.catalogue))
    if isinstance(ranker, DirectRanker):
        return ranker.rank_and_list(histories, owner, target, k, seen=seen)
    ranks = np.empty(len(target), dtype=np.int64)
    lists = Lists(
        np.zeros((len(histories), k), dtype=np.int64),
        np.full((len(histories), k), -np.inf, dtype=np.float32),
    )
    for rows, scores in scores_of(ranker, histories):
        if torch.isnan(scores.amax()):  # the maximum of NaN and a number is NaN
            raise TrainingError(
                f"scores of {ranker.name} are not numbers (NaN)",
                rule="items can only be ranked by numbers",
                fix="look at the loss of the training stage; train again with lower learning rates",
            )
        if seen is not None:
            _mask(scores, seen, rows)
        mine = slice(*np.searchsorted(owner, (rows.start, rows.stop)))
        row = torch.from_numpy(owner[mine] - rows.start)
        item = torch.from_numpy(target[mine] - 1)
        wanted = scores[row, item]
        found = _ranks(scores, row, item, wanted)
        ranks[mine] = np.where(torch.isneginf(wanted).numpy(), MISSED, found)
        best, index = _best(scores, k)
        lists.scores[rows] = best.numpy()
        lists.ids[rows] = torch.where(torch.isneginf(best), 0, index + 1).numpy()
    return ranks, lists


_NONE = np.empty(0, dtype=np.int64)


def _mask(scores: Tensor, seen: Jagged, rows: slice) -> None:
    lengths = seen.lengths[rows]
    row = np.repeat(np.arange(len(lengths)), lengths)
    item = seen.values[seen.offsets[rows.start] : seen.offsets[rows.stop]] - 1
    scores[torch.from_numpy(row), torch.from_numpy(item)] = -torch.inf


def _ranks(scores: Tensor, row: Tensor, item: Tensor, wanted: Tensor) -> npt.NDArray[np.int64]:
    """1 + number of items before ``item``: with a higher score, or an equal score and a lower
    id."""
    before = torch.empty_like(row)
    index = torch.arange(scores.shape[1])
    one_each = torch.equal(row, torch.arange(len(scores)))
    for part in row_blocks(len(row), scores.shape[1]):
        others, own = scores[part if one_each else row[part]], wanted[part, None]
        before[part] = _true(others > own)
        equal = others == own
        ties = (_true(equal) > 1) & ~torch.isneginf(wanted[part])
        tied = torch.nonzero(ties).squeeze(1)
        earlier = equal[tied] & (index < item[part][tied, None])
        before[tied + part.start] += earlier.sum(1)
    return before.numpy() + 1


def _true(mask: Tensor) -> Tensor:
    """[b] true values in each row: five times faster than a sum, which widens the values first."""
    return torch.from_numpy(np.fromiter(map(np.count_nonzero, mask.numpy()), np.int64, len(mask)))


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices [b, k], by falling value, then rising index."""
    width = min(k + 1, scores.shape[1])
    best, index = torch.topk(scores, width)
    if width > k:
        # torch.topk takes any of equal values, which matters at the end of the list.
        tied = torch.nonzero((best[:, k - 1] == best[:, k]) & ~torch.isneginf(best[:, k])).squeeze(
            1
        )
        best, index = best[:, :k], index[:, :k]
        index[tied] = _lowest_of_equal(scores[tied], k)
        best[tied] = scores[tied[:, None], index[tied]]
    index, order = torch.sort(index)
    best, order = torch.sort(best.gather(1, order), descending=True, stable=True)
    return best, index.gather(1, order)


def _lowest_of_equal(scores: Tensor, k: int) -> Tensor:
    """Indices [b, k] of the best scores, of equal scores the lowest index: sort keys hold the
    score as an integer of the same order in the high 32 bits, the reversed index in the low 32."""
    last = scores.shape[1] - 1
    found = torch.empty(len(scores), k, dtype=torch.int64)
    for part in row_blocks(len(scores), scores.shape[1], 4):
        bits = (scores[part] + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are equal
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        keys = (ordered.long() << 32) + (last - torch.arange(last + 1))
        found[part] = last - (torch.topk(keys, k).values & 0xFFFFFFFF)
    return found
