"""Item-to-item counts: which items follow which in training histories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints, Jagged, offsets_of, ranges
from p5dist.data.matrix import BLOCK
from p5dist.ranking.counts import DENSE, Counts, csr32, csr_tensor
from p5dist.ranking.sparse import rank_and_list_sparse
from p5dist.ranking.topk import Ranked

WINDOW = 10
"""Interactions after (or before) an item that count as following (preceding) it."""
DISTANCE_DECAY = 0.8
BACKWARD = 0.25
LAST = 10
"""Number of last interactions of a history that item-to-item uses."""
AGE_DECAY = 0.6
FROM_POWER, TO_POWER = 0.5, 0.1
_PAIRS = 1 << 24  # item pairs that are counted at once
TERMS = 1 << 26  # terms of scores that are held at once


@dataclass(frozen=True)
class ItemToItem:
    """Co-occurrence of items within a window, weighted by recency; no training.

    With the training histories x, the strength of j after i is
    ``c(i, j) = Σ 0.8^(d - 1) · ([x_p = i, x_(p+d) = j] + ¼ [x_p = j, x_(p+d) = i])`` over all
    histories, positions p and distances d = 1…10. With n(i) training interactions of item i, the
    score of j for a history whose last interactions are h_0 (the last), h_1, … is
    ``Σ_{a < 10} 0.6^a · c(h_a, j) / (√(n(h_a) + 1) · (n(j) + 1)^0.1)``.

    This is item-to-item filtering (Linden, Smith and York 2003; Sarwar et al. 2001) with the order
    of time: directed, by distance as in sequential rules (Ludewig and Jannach 2018), the powers
    between raw counts (0) and cosine (½). The constants were chosen once on the validation
    interactions of four public data sets (MovieLens 100K and 1M, Amazon Beauty and Sports).
    """

    catalogue: Catalogue
    weight: csr_array
    """[L, L], L the largest id: c(i, j) / √(n(i) + 1) / (n(j) + 1)^0.1 of the ids i + 1, j + 1.

    Its arrays may be memory-mapped: only the rows of the last items of histories are read."""

    name = "item_to_item"
    fitted_on = f"item pairs at most {WINDOW} interactions apart in training histories"

    @classmethod
    def fit(cls, parts: Iterable[Histories], catalogue: Catalogue) -> ItemToItem:
        """Count the item pairs in training histories; memory grows with the distinct pairs."""
        items = catalogue.largest
        forward, count = csr_array((items, items), dtype=np.float64), np.zeros(items)
        for part in parts:
            count += np.bincount(part.item - 1, minlength=items)
            forward = forward + pair_counts(part, items)
        weight = weights_of(slice(0, items), forward, forward.T.tocsr(), count)
        return cls(catalogue, weight)

    def scores(self, histories: Histories) -> Counts:
        """[B, L] float32. Sparse unless items have so many neighbours that an array takes less
        time; the columns of a row are in no order then."""
        if self._mostly_full:
            return self._whole(histories)
        parts = list(self._parts(histories))
        if len(parts) == 1:
            return parts[0]
        nothing = csr_array((0, self.catalogue.largest), dtype=np.float32)
        return vstack([nothing, *parts], format="csr")

    def rank_and_list(
        self, histories: Histories, owner: Ints, target: Ints, k: int, *, seen: Jagged | None
    ) -> Ranked:
        """See :class:`.topk.Ranker`."""
        scores = self.scores(histories)
        return rank_and_list_sparse(scores, self.catalogue, owner, target, k, seen=seen)

    @cached_property
    def _mostly_full(self) -> bool:
        """Whether the scores of a history are many, on average; the same for all histories, since
        the last bits depend on it."""
        items = self.catalogue.largest
        return items <= BLOCK and LAST * self.weight.nnz * DENSE > items * items

    def _whole(self, histories: Histories) -> npt.NDArray[np.float32]:
        recent = histories.last(LAST)
        shape = len(recent), self.catalogue.largest
        share, weight = csr32(recent.offsets, recent.item - 1, _shares(recent), shape), self._small
        assert weight is not None
        if not torch._C.has_mkl or not share.nnz:
            product: npt.NDArray[np.float32] = (share @ weight).toarray()
            return product
        out = torch.empty(shape)
        torch.addmm(out, csr_tensor(share), self._factor, beta=0, out=out)
        return out.numpy()

    @cached_property
    def _factor(self) -> Tensor:
        assert self._small is not None
        return csr_tensor(self._small)

    def _parts(self, histories: Histories) -> Iterator[csr_array]:
        """The scores of some histories at a time, made of at most TERMS terms (but of one history
        at least)."""
        recent = histories.last(LAST)
        start, end = self.weight.indptr[recent.item - 1], self.weight.indptr[recent.item]
        shares = _shares(recent)
        terms = np.cumsum(np.append(0, end.astype(np.int64) - start))[recent.offsets[1:]]
        for rows in _cuts(terms, TERMS):
            t = slice(recent.offsets[rows.start], recent.offsets[rows.stop])
            offsets = recent.offsets[rows.start : rows.stop + 1] - recent.offsets[rows.start]
            column, weight = recent.item[t] - 1, self._small
            if weight is None:
                used, column = np.unique(column, return_inverse=True)
                weight = self._rows(used)
            shape = rows.stop - rows.start, weight.shape[0]
            yield csr32(offsets, column, shares[t], shape) @ weight

    @cached_property
    def _small(self) -> csr_array | None:
        """The whole weight for products with 32-bit indices; None if it has too many entries."""
        if len(self.weight.data) > np.iinfo(np.int32).max:
            return None
        return csr32(self.weight.indptr, self.weight.indices, self.weight.data, self.weight.shape)

    def _rows(self, used: Ints) -> csr_array:
        """[U, L] these rows of the weight."""
        start = self.weight.indptr[used].astype(np.int64)
        offsets = offsets_of(self.weight.indptr[used + 1] - start)
        at = ranges(start, np.diff(offsets))
        shape = len(used), self.catalogue.largest
        return csr32(offsets, self.weight.indices[at], self.weight.data[at], shape)


def pair_counts(histories: Histories, items: int) -> csr_array:
    """[items, items] Σ 0.8^(d - 1) · [x_p = i, x_(p+d) = j] over all histories, positions p and
    distances d = 1…10. The counts of two parts of the histories add up to those of both."""
    forward = csr_array((items, items), dtype=np.float64)
    for piece in _pieces(histories):
        forward = forward + _following(piece, items)
    return forward


def weights_of(
    rows: slice, forward_rows: csr_array, backward_rows: csr_array, count: Floats | Ints
) -> csr_array:
    """The rows of :attr:`ItemToItem.weight` of a range of r items.

    Args:
        rows: the range of rows.
        forward_rows: [r, L] these rows of the counts of :func:`pair_counts` of all histories.
        backward_rows: [r, L] these rows of the transposed counts.
        count: [L] training interactions of each item.

    Returns:
        [r, L] float64
    """
    weight: csr_array = (forward_rows + BACKWARD * backward_rows).tocsr()
    of_row = np.repeat(count[rows], np.diff(weight.indptr))
    weight.data /= (of_row + 1) ** FROM_POWER
    weight.data /= (count[weight.indices] + 1) ** TO_POWER
    return weight


def _shares(recent: Histories) -> npt.NDArray[np.float32]:
    """[T] the weights of interactions by their age."""
    age = recent.lengths[recent.owner()] - 1 - recent.position()
    found: npt.NDArray[np.float32] = (AGE_DECAY**age).astype(np.float32)
    return found


def _cuts(total: Ints, limit: int) -> Iterator[slice]:
    """Slices of n elements, cut where the running total [n] passes a multiple of the limit."""
    edges = np.flatnonzero(np.diff(total // limit, prepend=-1, append=-1))
    return (slice(begin, end) for begin, end in pairwise(edges.tolist()))


def _pieces(histories: Histories) -> Iterator[Histories]:
    """Pieces of whole histories, each with about _PAIRS pairs."""
    for rows in _cuts(histories.offsets[1:], _PAIRS // (2 * WINDOW)):
        yield histories.between(rows.start, rows.stop)


def _following(histories: Histories, items: int) -> csr_array:
    """[items, items] Σ 0.8^(d - 1) · [x_p = i, x_(p+d) = j]"""
    item, position = (histories.item - 1).astype(np.int32), histories.position()
    first, second, weight = [], [], []
    for distance in range(1, min(WINDOW, len(item) - 1) + 1):
        inside = position[distance:] >= distance
        first.append(item[:-distance][inside])
        second.append(item[distance:][inside])
        weight.append(np.full(len(first[-1]), DISTANCE_DECAY ** (distance - 1)))
    if not first:
        return csr_array((items, items), dtype=np.float64)
    pairs = np.concatenate(first), np.concatenate(second)
    return csr_array((np.concatenate(weight), pairs), shape=(items, items))
