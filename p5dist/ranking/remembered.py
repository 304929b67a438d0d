"""What is remembered of the users of a tile (see :class:`.mixture.Mixture`), and the scores of the
model that it raises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

from p5dist.data.jagged import Array, Ints
from p5dist.ranking.counts import Counts, csr_rows, row_sums
from p5dist.ranking.interpolation import LogSum, constant, raised
from p5dist.ranking.topk import placed

_CELLS = 1 << 15  # handled at once on CPU: a cache holds their arrays


class Cells:
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


class Remembered(ABC):
    """Probabilities of some items for each of b users.

    Args:
        counted: [b, L]
    """

    def __init__(self, counted: Counts, device: torch.device) -> None:
        self._total = placed(row_sums(counted).astype(np.float32), device)
        self._log_sum = LogSum(len(self._total), device)

    def look(self, scores: Tensor, first: int, spare: Tensor) -> None:
        """Take in a block of scores of the model before seen items are hidden.

        Args:
            scores: [b, n] of the ids from ``first`` on.
            spare: [b, n] room to write to.
        """
        self._log_sum.add(scores, spare)

    @abstractmethod
    def raise_scores(self, scores: Tensor, first: int) -> None:
        """Replace the scores of remembered items in a block; hidden ones have to be hidden again.
        Called after all blocks were looked at."""

    @cached_property
    def constant(self) -> Tensor:
        """[b] see :func:`.interpolation.constant`; known after the last block."""
        return constant(self._log_sum.value(), self._total)


def remembered(
    counted: Counts, rows: slice, offset: Tensor | None, device: torch.device, *, single: bool
) -> Remembered:
    """Of a range of users.

    Args:
        counted: [B, L]
        offset: [L] what is added to the score of each item.
        single: the items are one block.
    """
    if isinstance(counted, np.ndarray):
        assert single, "counts are sparse if the items are several blocks"
        return WholeCounts(counted[rows], offset, device)
    return SparseCounts(csr_rows(counted, rows), single, offset, device)


class WholeCounts(Remembered):
    """From an array, where the items are one block.

    Args:
        counted: [b, L]
        offset: [L]
    """

    def __init__(
        self, counted: npt.NDArray[np.float32], offset: Tensor | None, device: torch.device
    ) -> None:
        super().__init__(counted, device)
        self._counted, self._offset = placed(counted, device), offset

    def raise_scores(self, scores: Tensor, first: int) -> None:
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


class SparseCounts(Remembered):
    """From a sparse matrix.

    Args:
        counted: [b, L]
        single: the items are one block.
        offset: [L]
    """

    def __init__(
        self,
        counted: csr_array,
        single: bool,
        offset: Tensor | None,
        device: torch.device,
    ) -> None:
        super().__init__(counted, device)
        rows = counted.shape[0]
        row = np.repeat(np.arange(rows, dtype=np.int32), np.diff(counted.indptr))
        item = counted.indices + np.int32(1)
        self._cells = Cells(row, item, counted.data, device, single=single)
        self._offset, self._device = offset, device
        self._scores = torch.empty(len(row), device=device)

    def look(self, scores: Tensor, first: int, spare: Tensor) -> None:
        super().look(scores, first, spare)
        for at in self._cells.within(first, scores.shape[1]):
            places = self._cells.places(at, first, scores.shape[1])
            torch.index_select(scores.view(-1), 0, places, out=self._scores[at])

    def raise_scores(self, scores: Tensor, first: int) -> None:
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

    def _raised(self, at: slice | Tensor) -> Tensor:
        """[…] the raised scores of some cells; in double precision, since the last bits of
        functions depend on the place in an array, and equal items must have equal scores."""
        cells = self._cells
        constant = self.constant.double()[cells.row[at].long()]
        found = raised(self._scores[at].double(), cells.value[at].double(), constant).float()
        return found if self._offset is None else found + self._offset[cells.item[at].long() - 1]
