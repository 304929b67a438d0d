"""Tiles of users: what is kept of them while blocks of scores pass by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p5dist.data.jagged import Ints, Jagged
from p5dist.ranking.counts import Counts
from p5dist.ranking.remembered import Cells, SparseCounts, remembered
from p5dist.ranking.topk import MISSED, Lists, Ranked, RunningLists, before, placed

_ROWS_AT_LEAST = 64  # BLAS multiplies thin matrices with another order of sums


@dataclass(frozen=True)
class Query:
    """What is asked about B users; see :meth:`.topk.Ranker.rank_and_list`."""

    users: Tensor
    """[B, dim]"""
    owner: Ints
    """[M]"""
    target: Ints
    """[M]"""
    seen: Jagged | None
    """[B]"""
    counted: Counts | None = None
    """[B, L] what is remembered, see :class:`.mixture.Mixture`; for the mixture."""


class Room:
    """Buffers that every block of scores uses again: new memory of this size costs as much as the
    product itself."""

    def __init__(self, device: torch.device) -> None:
        self._scores = torch.empty(0, device=device)
        self._other = torch.empty(0, device=device)
        self._rough = torch.empty(0, device=device)
        self._mask = np.empty(0, dtype=np.bool_)

    def product(self, users: Tensor, vectors: Tensor) -> Tensor:
        """[b, n] ``users @ vectors.T``; valid until the next call."""
        shape = len(users), len(vectors)
        self._scores = _at_least(self._scores, shape)
        out = self._scores[: shape[0] * shape[1]].view(shape)
        if users.dtype == torch.float32:
            return torch.mm(users, vectors.T, out=out)
        self._rough = _at_least(self._rough.to(users.dtype), shape)
        rough = self._rough[: shape[0] * shape[1]].view(shape)
        return out.copy_(torch.mm(users, vectors.T, out=rough))

    def other(self, like: Tensor) -> Tensor:
        """A second matrix of this shape."""
        self._other = _at_least(self._other, tuple(like.shape))
        return self._other[: like.numel()].view(like.shape)

    def mask(self, like: Tensor) -> npt.NDArray[np.bool_] | None:
        """A mask of this shape, in memory of the host; None on other devices."""
        if like.device.type != "cpu":
            return None
        if len(self._mask) < like.numel():
            self._mask = np.empty(like.numel(), dtype=np.bool_)
        return self._mask[: like.numel()].reshape(like.shape)


def _at_least(buffer: Tensor, shape: tuple[int, ...]) -> Tensor:
    size = shape[0] * shape[1]
    return buffer if len(buffer) >= size else buffer.new_empty(size)


class Tile:
    """At most TILE users of a query; see :func:`.products.rank_products`.

    For every block the methods are called in the order in which they stand here.
    """

    def __init__(
        self,
        query: Query,
        rows: slice,
        k: int,
        mixture: bool,
        alone: bool,
        single: bool,
        offset: Tensor | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.size, self._device = rows.stop - rows.start, query.users.device
        self.users = _padded(query.users[rows]).to(precision)
        mine = slice(*np.searchsorted(query.owner, (rows.start, rows.stop)))
        self._row, self._item = query.owner[mine] - rows.start, query.target[mine]
        self._wanted = torch.full((len(self._row),), -torch.inf, device=self._device)
        self._raised: Tensor | None = None
        self._single, self._mixture, self._alone = single, mixture, alone
        self._seen: Cells | None = None
        if query.seen is not None:
            lengths = query.seen.lengths[rows]
            owner = np.repeat(np.arange(self.size, dtype=np.int32), lengths)
            offsets = query.seen.offsets
            items = query.seen.values[offsets[rows.start] : offsets[rows.stop]].astype(np.int32)
            self._seen = Cells(owner, items, items, self._device, single=single)
        if mixture:
            assert query.counted is not None
            self._counts = remembered(query.counted, rows, offset, self._device, single=single)
        kinds = alone + mixture
        nothing = torch.zeros(len(self._row), dtype=torch.int64, device=self._device)
        self._before = [nothing] * kinds
        exact = precision == torch.float32
        self._lists = [RunningLists(self.size, k, self._device, ties=exact) for _ in range(kinds)]

    def look(self, scores: Tensor, first: int, room: Room) -> None:
        """What the mixture needs to know of the whole catalogue."""
        if self._mixture:
            self._counts.look(scores, first, room.other(scores))

    def hide(self, scores: Tensor, first: int) -> None:
        """Seen items are not ranked."""
        if self._seen is None:
            return
        for at in self._seen.within(first, scores.shape[1]):
            places = self._seen.places(at, first, scores.shape[1])
            scores.view(-1).index_fill_(0, places, -torch.inf)

    def look_at_targets(self, scores: Tensor, first: int) -> None:
        """The scores of the targets."""
        inside = (self._item >= first) & (self._item < first + scores.shape[1])
        if not inside.any():
            return
        row, item = (placed(x[inside], self._device) for x in (self._row, self._item - first))
        at = placed(np.flatnonzero(inside), self._device)
        self._wanted.index_copy_(0, at, scores[row, item])

    def rank(self, scores: Tensor, first: int, room: Room) -> None:
        """Count the items before the targets, and take the best into the lists."""
        kind = 0
        if self._alone:
            self._add(kind, scores, first, self._wanted, room)
            kind += 1
        if self._mixture:
            self._counts.raise_scores(scores, first)
            self.hide(scores, first)
            self._add(kind, scores, first, self._raised_wanted(scores, first), room)

    def result(self, kind: int) -> Ranked:
        """Ranks and lists of the alone (0) or the mixture (the last)."""
        missed = torch.isneginf(self._wanted).cpu().numpy()
        lists = self._lists[kind].lists()
        if self._mixture and kind == len(self._lists) - 1:
            constant = self._counts.constant.cpu().numpy()[:, None]
            lists = Lists(lists.ids, lists.scores - constant)
        return np.where(missed, MISSED, self._before[kind].cpu().numpy() + 1), lists

    def _raised_wanted(self, scores: Tensor, first: int) -> Tensor:
        """[M] scores of the targets in the mixture; hidden ones do not matter."""
        if self._single:
            row, item = (placed(x, self._device) for x in (self._row, self._item - first))
            return scores[row, item]
        if self._raised is None:
            assert isinstance(self._counts, SparseCounts), "of several blocks"
            self._raised = self._counts.of_targets(self._row, self._item, self._wanted)
        return self._raised

    def _add(self, kind: int, scores: Tensor, first: int, wanted: Tensor, room: Room) -> None:
        mask = room.mask(scores)
        self._before[kind] = self._before[kind] + before(
            scores, self._row, self._item - first, wanted, mask
        )
        self._lists[kind].add(scores, first)


def _padded(users: Tensor) -> Tensor:
    """With rows of zeros, if there are few rows."""
    missing = -len(users) % _ROWS_AT_LEAST
    return torch.nn.functional.pad(users, (0, 0, 0, missing)) if missing else users
