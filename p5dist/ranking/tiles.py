"""Tiles of users: what is kept of them while blocks of scores pass by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

from p5dist.data.jagged import Array, Ints, Jagged
from p5dist.ranking.counts import Counts, csr_rows, row_sums
from p5dist.ranking.interpolation import LogSum, constant, raised
from p5dist.ranking.topk import MISSED, Lists, Ranked, RunningLists, before, placed

_ROWS_AT_LEAST = 64  # BLAS multiplies thin matrices with another order of sums
_CELLS = 1 << 15


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


class _Cells:
    """Some cells of a [b, L] matrix, with values.

    Args:
        row: [E] int32
        item: [E] int32 item ids.
        value: [E] float32
        single: the items are one block; else the cells are held by rising item.
    """

    def __init__(
        self, row: Array, item: Array, value: Array, device: torch.device, *, single: bool
    ) -> None:
        if not single:
            order = np.argsort(item, kind="stable")
            row, item, value = row[order], item[order], value[order]
        self._single, self._on_host = single, device.type == "cpu"
        self._item = item
        self.row, self.item = placed(row, device), placed(item, device)
        self.value = placed(value, device)

    def within(self, first: int, columns: int) -> Iterator[slice]:
        """The cells of a block, on CPU a part at a time whose arrays a cache holds."""
        begin, end = 0, len(self._item)
        if not self._single:
            begin, end = map(int, np.searchsorted(self._item, (first, first + columns)))
        step = _CELLS if self._on_host else max(end - begin, 1)
        for start in range(begin, end, step):
            yield slice(start, min(start + step, end))

    def places(self, at: slice, first: int, columns: int) -> Tensor:
        """Indices of the cells ``at`` in the flat block [b, columns] whose first id is
        ``first``."""
        return self.row[at].long().mul_(columns).add_(self.item[at]).sub_(first)


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
            owner = np.repeat(np.arange(self.size, dtype=np.int32), lengths)
            offsets = query.seen.offsets
            items = query.seen.values[offsets[rows.start] : offsets[rows.stop]].astype(np.int32)
            self._seen = _Cells(owner, items, items, self._device, single=single)
        if mixture:
            assert query.counted is not None
            self._counts: _Counts | _WholeCounts
            if isinstance(query.counted, np.ndarray):
                assert single, "counts are sparse if the items are several blocks"
                self._counts = _WholeCounts(query.counted[rows], offset, self._device)
            else:
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
            assert isinstance(self._counts, _Counts)
            self._raised = self._counts.of_targets(self._row, self._item, self._wanted)
        return self._raised

    def _add(self, kind: int, scores: Tensor, first: int, wanted: Tensor, room: Room) -> None:
        mask = room.mask(scores)
        self._before[kind] = self._before[kind] + before(
            scores, self._row, self._item - first, wanted, mask
        )
        self._lists[kind].add(scores, first)


class _WholeCounts:
    """:class:`_Counts` as an array, where the items are one block.

    Args:
        counted: [b, L]
        offset: [L]
    """

    def __init__(
        self, counted: npt.NDArray[np.float32], offset: Tensor | None, device: torch.device
    ) -> None:
        self._counted, self._offset = placed(counted, device), offset
        self._total = placed(row_sums(counted).astype(np.float32), device)
        self._log_sum = LogSum(len(counted), device)

    def look(self, scores: Tensor, first: int, room: Room) -> None:
        """Take in the block before seen items are hidden."""
        self._log_sum.add(scores, room.other(scores))

    def raise_scores(self, scores: Tensor, first: int) -> None:
        """Replace the scores of items with a count; hidden ones have to be hidden again."""
        step = len(scores)
        if scores.device.type == "cpu":
            step = max(_CELLS // scores.shape[1], 1)
        constant, offset = self.constant.double()[:, None], self._offset
        for begin in range(0, len(scores), step):
            at = slice(begin, begin + step)
            own, counted = scores[at].double(), self._counted[at]
            if offset is not None:
                own.sub_(offset).nan_to_num_()
            found = raised(own, counted, constant[at]).float()
            if offset is not None:
                found.add_(offset)
            torch.where(counted > 0, found, scores[at], out=scores[at])

    @cached_property
    def constant(self) -> Tensor:
        """[b] see :func:`.interpolation.constant`."""
        return constant(self._log_sum.value(), self._total)


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
        row = np.repeat(np.arange(rows, dtype=np.int32), np.diff(counted.indptr))
        item = counted.indices + np.int32(1)
        self._cells = _Cells(row, item, counted.data, device, single=single)
        self._offset, self._device = offset, device
        self._scores = torch.empty(len(row), device=device)
        self._total = placed(row_sums(counted).astype(np.float32), device)
        self._log_sum = LogSum(rows, device)

    def look(self, scores: Tensor, first: int, room: Room) -> None:
        """Take in a block before seen items are hidden."""
        self._log_sum.add(scores, room.other(scores))
        for at in self._cells.within(first, scores.shape[1]):
            places = self._cells.places(at, first, scores.shape[1])
            torch.index_select(scores.view(-1), 0, places, out=self._scores[at])

    def raise_scores(self, scores: Tensor, first: int) -> None:
        """Replace the scores of items with a count."""
        for at in self._cells.within(first, scores.shape[1]):
            places = self._cells.places(at, first, scores.shape[1])
            scores.view(-1).index_copy_(0, places, self._raised(at))

    def of_targets(self, row: Ints, item: Ints, wanted: Tensor) -> Tensor:
        """[M] the scores ``wanted`` of targets, replaced where the target has a count; where there
        are several blocks."""
        keys, asked = self._keys, item * len(self._total) + row
        place = np.searchsorted(keys, asked)
        hit = np.flatnonzero(np.append(keys, -1)[place] == asked)
        raised = self._raised(placed(place[hit], self._device))
        return wanted.index_copy(0, placed(hit, self._device), raised)

    @property
    def _keys(self) -> Ints:
        """[E] rising"""
        keys: Ints = (self._cells.item.long() * len(self._total) + self._cells.row).cpu().numpy()
        return keys

    @cached_property
    def constant(self) -> Tensor:
        """[b] see :func:`.interpolation.constant`; known after the last block."""
        return constant(self._log_sum.value(), self._total)

    def _raised(self, at: slice | Tensor) -> Tensor:
        """[…] the raised scores of some cells; in double precision, since the last bits of
        functions depend on the place in an array, and equal items must have equal scores."""
        cells = self._cells
        constant = self.constant.double()[cells.row[at].long()]
        found = raised(self._scores[at].double(), cells.value[at].double(), constant).float()
        return found if self._offset is None else found + self._offset[cells.item[at].long() - 1]


def _padded(users: Tensor) -> Tensor:
    """With rows of zeros, if there are few rows."""
    missing = -len(users) % _ROWS_AT_LEAST
    return torch.nn.functional.pad(users, (0, 0, 0, missing)) if missing else users
