"""Tiles of users: what is kept of them while blocks of scores pass by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

from p5dist.data.jagged import Array, Ints, Jagged
from p5dist.ranking.csr import csr_rows
from p5dist.ranking.interpolation import LogSum, constant, raised
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
    counted: csr_array | None = None
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


class _Cells:
    """Some cells of a [b, L] matrix, with values.

    Args:
        row: [E]
        item: [E] item ids.
        value: [E]
        single: the items are one block; else the cells are held by rising item.
    """

    def __init__(
        self, row: Ints, item: Ints, value: Array, device: torch.device, *, single: bool
    ) -> None:
        if not single:
            order = np.argsort(item, kind="stable")
            row, item, value = row[order], item[order], value[order]
        self._single = single
        self.row, self.item, self.value = row, item, value
        self.rows, self._items = placed(row, device), placed(item, device)

    def within(self, first: int, columns: int) -> slice:
        """The cells of a block."""
        if self._single:
            return slice(0, len(self.item))
        return slice(*np.searchsorted(self.item, (first, first + columns)))

    def indices(self, at: slice, first: int) -> tuple[Tensor, Tensor]:
        """Rows and columns of the cells ``at`` in the block whose first id is ``first``."""
        return self.rows[at], self._items[at] - first


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
        self._seen: _Cells | None = None
        if query.seen is not None:
            lengths = query.seen.lengths[rows]
            owner = np.repeat(np.arange(self.size), lengths)
            offsets = query.seen.offsets
            items = query.seen.values[offsets[rows.start] : offsets[rows.stop]]
            self._seen = _Cells(owner, items, items, self._device, single=single)
        if mixture:
            assert query.counted is not None
            counted = csr_rows(query.counted, rows)
            self._counts = _Counts(counted, single, offset, self._device)
        kinds = alone + mixture
        nothing = torch.zeros(len(self._row), dtype=torch.int64, device=self._device)
        self._before = [nothing] * kinds
        exact = precision == torch.float32
        self._lists = [RunningLists(self.size, k, self._device, ties=exact) for _ in range(kinds)]

    def look(self, scores: Tensor, first: int, room: Room) -> None:
        """What the mixture needs to know of the whole catalogue."""
        if self._mixture:
            self._counts.look(scores, first, room)

    def hide(self, scores: Tensor, first: int) -> None:
        """Seen items are not ranked."""
        if self._seen is None:
            return
        at = self._seen.within(first, scores.shape[1])
        if at.stop > at.start:
            row, item = self._seen.indices(at, first)
            scores.view(-1).index_fill_(0, row * scores.shape[1] + item, -torch.inf)

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
            self._raised = self._counts.of_targets(self._row, self._item, self._wanted)
        return self._raised

    def _add(self, kind: int, scores: Tensor, first: int, wanted: Tensor, room: Room) -> None:
        mask = room.mask(scores)
        self._before[kind] = self._before[kind] + before(
            scores, self._row, self._item - first, wanted, mask
        )
        self._lists[kind].add(scores, first)


class _Counts:
    """What is remembered of the users of a tile, and the scores that it raises.

    Args:
        counted: [b, L]
        offset: [L] what is added to the score of each item.
    """

    def __init__(
        self,
        counted: csr_array,
        single: bool,
        offset: Tensor | None,
        device: torch.device,
    ) -> None:
        rows = counted.shape[0]
        row = np.repeat(np.arange(rows, dtype=np.int64), np.diff(counted.indptr))
        item = counted.indices.astype(np.int64) + 1
        self._cells = cells = _Cells(row, item, counted.data, device, single=single)
        self._offset = None if offset is None else offset[placed(cells.item - 1, device)]
        self._device = device
        self._scores = torch.empty(len(row), device=device)
        total = np.bincount(row, counted.data, rows)
        self._total = placed(total.astype(np.float32), device)
        self._log_sum = LogSum(rows, device)

    def look(self, scores: Tensor, first: int, room: Room) -> None:
        """Take in a block before seen items are hidden."""
        self._log_sum.add(scores, room.other(scores))
        at = self._cells.within(first, scores.shape[1])
        self._scores[at] = scores[self._cells.indices(at, first)]

    def raise_scores(self, scores: Tensor, first: int) -> None:
        """Replace the scores of items with a count."""
        at = self._cells.within(first, scores.shape[1])
        scores[self._cells.indices(at, first)] = self._raised[at]

    def of_targets(self, row: Ints, item: Ints, wanted: Tensor) -> Tensor:
        """[M] the scores ``wanted`` of targets, replaced where the target has a count; where there
        are several blocks."""
        rows = len(self._total)
        keys, asked = self._cells.item * rows + self._cells.row, item * rows + row
        place = np.searchsorted(keys, asked)
        hit = np.flatnonzero(np.append(keys, -1)[place] == asked)
        raised = self._raised[placed(place[hit], self._device)]
        return wanted.index_copy(0, placed(hit, self._device), raised)

    @cached_property
    def constant(self) -> Tensor:
        """[b] see :func:`.interpolation.constant`; known after the last block."""
        return constant(self._log_sum.value(), self._total)

    @cached_property
    def _raised(self) -> Tensor:
        """[E] the raised score of every cell; in double precision, since the last bits of
        functions depend on the place in an array, and equal items must have equal scores."""
        row = self._cells.rows
        probability = placed(self._cells.value.astype(np.float64), self._device)
        found = raised(self._scores.double(), probability, self.constant[row].double()).float()
        return found if self._offset is None else found + self._offset


def _padded(users: Tensor) -> Tensor:
    """With rows of zeros, if there are few rows."""
    missing = -len(users) % _ROWS_AT_LEAST
    return torch.nn.functional.pad(users, (0, 0, 0, missing)) if missing else users
