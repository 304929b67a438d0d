"""Exact ranking by scores of which most are zero, without an array of histories × items.

The order is that of :mod:`.topk`: falling score, of equal scores the lower id first. An item
without entry has the score 0, so these items come after all entries, in the order of their ids.

One whole number per entry, its *key*, decides the order: the bits of a positive float32, which rise
with the number, above the reversed column. Neither the columns nor the entries are ever sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Bools, Ints, Jagged, contains, distinct, ranges
from p5dist.errors import TrainingError
from p5dist.ranking.counts import DENSE, Counts, whole_rows
from p5dist.ranking.products import rank_given
from p5dist.ranking.tiles import Query
from p5dist.ranking.topk import MISSED, Lists, Ranked

CELLS = 1 << 18
"""Entries compared at once (2 MB of keys, for the sake of the processor's cache); one row is never
split."""
_LOW = 1 << 32


def rank_and_list_sparse(
    scores: Counts,
    catalogue: Catalogue,
    owner: Ints,
    target: Ints,
    k: int,
    *,
    seen: Jagged | None,
) -> tuple[Ints, Lists]:
    """:func:`.topk.rank_and_list` of an array in which every entry that is absent is 0.

    Time and memory grow with the entries, the seen items and k, not with histories × items.

    Args:
        scores: [B, L] of the ids 1…L (column j: id j + 1), L the largest id; entries are not
            negative, at most one per place, the columns of a row in any order.
        owner: [M] row of each target, rising.
        target: [M] item ids.
        k: length of the lists, or the whole catalogue if it has fewer items.
        seen: [B] items that are not listed; None: none. A target among them has the rank MISSED.

    Returns:
        Ranks [M] from 1, and the lists.

    Raises:
        TrainingError: a score is negative or NaN.
    """
    k = min(k, len(catalogue))
    values = scores if isinstance(scores, np.ndarray) else scores.data
    if values.size and not values.min() >= 0:  # also of NaN
        raise TrainingError(
            "sparse scores are negative or not numbers (NaN)",
            rule="items without entry have the score 0 and come last",
        )
    if isinstance(scores, np.ndarray) or scores.nnz * DENSE > scores.shape[0] * scores.shape[1]:
        return _rank_dense(scores, catalogue, owner, target, k, seen)
    hidden = _Hidden.of(seen, scores.shape[0], catalogue)
    column = target - 1
    key, ahead, lower = (np.zeros(len(target), dtype=np.int64) for _ in range(3))
    lists = Lists(
        np.zeros((scores.shape[0], k), dtype=np.int64),
        np.full((scores.shape[0], k), -np.inf, dtype=np.float32),
    )
    for block in _blocks(scores, hidden, catalogue):
        begin = np.searchsorted(owner, block.rows)
        number = np.searchsorted(owner, block.rows, side="right") - begin
        at, row = ranges(begin, number), np.repeat(np.arange(len(block.rows)), number)
        step = max(1, CELLS // block.keys.shape[1])
        for part in (slice(start, start + step) for start in range(0, len(at), step)):
            m = at[part]
            key[m], ahead[m], lower[m] = block.places(row[part], column[m])
        block.list_best(lists)
    _fill(lists, hidden, catalogue)
    seen_below, masked = hidden.below(owner, column)
    place = np.searchsorted(catalogue.ids, target)
    ranks = 1 + ahead + np.where(key > 0, 0, place - lower - seen_below)
    return np.where(masked | contains(catalogue.absent, target), MISSED, ranks), lists


def _rank_dense(
    scores: Counts, catalogue: Catalogue, owner: Ints, target: Ints, k: int, seen: Jagged | None
) -> Ranked:
    """The same with an array of all scores of some rows at a time."""
    query = Query(torch.empty(scores.shape[0], 0), owner, target, seen)
    return rank_given(query, lambda rows: torch.from_numpy(whole_rows(scores, rows)), catalogue, k)


def free_places(taken: Ints, rows: int, size: int, wanted: Ints) -> Ints:
    """[rows, …] the ``wanted``-th place (from 0) of each row that is not taken.

    Place number j that is free is j + t, t the number of taken places up to there: of those whose
    place less the number of taken places before them is at most j.

    Args:
        taken: distinct row · size + place, rising.
        size: above every place.
        wanted: [rows, n], or [n] for all rows; from 0 to below ``size``.
    """
    row = taken // size
    first = np.searchsorted(taken, np.arange(rows + 1) * size)
    gap = taken - (np.arange(len(taken)) - first[row])
    before = np.searchsorted(gap, np.arange(rows)[:, None] * size + wanted, side="right")
    places: Ints = wanted + before - first[:-1, None]
    return places


@dataclass(frozen=True)
class _Hidden:
    """The seen items of each row that an item has, each once."""

    columns: int
    keys: Ints
    """row · columns + column, rising"""
    first: Ints
    """[B + 1] the keys of row i are ``keys[first[i]:first[i + 1]]``."""

    @classmethod
    def of(cls, seen: Jagged | None, rows: int, catalogue: Catalogue) -> _Hidden:
        columns, keys = catalogue.largest, np.zeros(0, dtype=np.int64)
        if seen is not None:
            keys = seen.owner() * columns + seen.values - 1
            if len(catalogue.absent):
                keys = keys[~contains(catalogue.absent, seen.values)]
            keys = distinct(keys)
        return cls(columns, keys, np.searchsorted(keys, np.arange(rows + 1) * columns))

    def below(self, owner: Ints, column: Ints) -> tuple[Ints, Bools]:
        """[M] seen items with a lower id than the item, and whether the item is seen."""
        wanted = owner * self.columns + column
        at = np.searchsorted(self.keys, wanted)
        masked: Bools = np.append(self.keys, -1)[at] == wanted
        return at - self.first[owner], masked

    def among(self, rows: Ints, columns: npt.NDArray[np.int_]) -> Ints:
        """Indices in the flat array of the columns [rows, width] that are seen.

        A table of about 16 bytes per seen item first excludes nearly all other columns, since a
        binary search for every entry would take longer than all the rest.
        """
        number = self.first[rows + 1] - self.first[rows]
        keys = self.keys[ranges(self.first[rows], number)]
        if not len(keys):
            return keys
        slots = 1 << int(16 * len(keys) / len(rows)).bit_length()
        begin = np.arange(len(rows)) * slots
        maybe = np.zeros(len(rows) * slots, dtype=bool)
        maybe[np.repeat(begin, number) + (keys % self.columns & (slots - 1))] = True
        at = np.flatnonzero(maybe.take(begin[:, None] + (columns & (slots - 1))))
        found = contains(self.keys, rows[at // columns.shape[1]] * self.columns + columns.take(at))
        return at[found]


@dataclass(frozen=True)
class _Block:
    """The entries of some rows as a rectangle."""

    rows: Ints
    """[r] rising"""
    columns: npt.NDArray[np.int_]
    """[r, width]; of any value where there is no entry, which is only after the entries"""
    keys: Ints
    """[r, width]; 0 where there is no entry, or one of 0, or of an item that is not ranked"""

    def places(self, row: Ints, column: Ints) -> tuple[Ints, Ints, Ints]:
        """For the item in column ``column[m]`` and row ``row[m]`` [M]: its key (0: no entry), the
        entries before it (of an item without entry: all), and (of such an item only) the entries
        of lower columns."""
        whole = len(row) == len(self.rows) and bool((row == np.arange(len(row))).all())
        keys, columns = (self.keys, self.columns) if whole else (self.keys[row], self.columns[row])
        equal = columns == column[:, None]
        place = equal.argmax(1)
        index = np.arange(len(row))
        key = np.where(equal[index, place], keys[index, place], 0)
        ahead = (keys > key[:, None]).sum(1)
        lower = np.zeros(len(row), dtype=np.int64)
        none = np.flatnonzero(key == 0)
        lower[none] = ((columns[none] < column[none, None]) & (keys[none] > 0)).sum(1)
        return key, ahead, lower

    def list_best(self, lists: Lists) -> None:
        """Write the best entries of each row to its list."""
        n = min(lists.ids.shape[1], self.keys.shape[1])
        best = torch.topk(torch.from_numpy(self.keys), n).values.numpy()
        scores = (best >> 32).astype(np.int32).view(np.float32)
        lists.ids[self.rows, :n] = np.where(best > 0, _LOW - (best & (_LOW - 1)), 0)
        lists.scores[self.rows, :n] = np.where(best > 0, scores, -np.inf)


def _blocks(scores: csr_array, hidden: _Hidden, catalogue: Catalogue) -> Iterator[_Block]:
    """All rows, those of similar number of entries together."""
    ranked = None
    if len(catalogue.absent):
        ranked = np.ones(catalogue.largest, dtype=bool)
        ranked[catalogue.absent - 1] = False
    lengths = np.diff(scores.indptr).astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = max(1, int(lengths[order[start]]))
        rows = np.sort(order[start : start + max(1, CELLS // width)])
        start += len(rows)
        columns, keys = _rectangle(scores, rows, lengths[rows], width)
        keys.reshape(-1)[hidden.among(rows, columns)] = 0
        if ranked is not None:
            keys[~ranked[columns]] = 0
        yield _Block(rows, columns, keys)


def _rectangle(
    scores: csr_array, rows: Ints, lengths: Ints, width: int
) -> tuple[npt.NDArray[np.int_], Ints]:
    """Columns and keys [rows, width]."""
    if not lengths.any():
        nothing = np.zeros((len(rows), width), dtype=np.int64)
        return nothing, nothing.copy()
    place = np.arange(width)
    at = np.minimum(scores.indptr[rows][:, None] + place, len(scores.data) - 1)
    columns, values = scores.indices[at], scores.data[at].astype(np.float32, copy=False)
    there = place < lengths[:, None]
    halves = np.empty((*at.shape, 2), dtype=np.int32)  # of a key; little-endian: the low one first
    halves[..., 0] = ~columns  # as uint32: 2^32 - 1 - column = 2^32 - id
    halves[..., 1] = values.view(np.int32)
    keys: Ints = halves.view(np.int64)[..., 0].copy()
    keys[~(there & (values > 0))] = 0
    return columns, keys


def _fill(lists: Lists, hidden: _Hidden, catalogue: Catalogue) -> None:
    """Continue the lists that entries do not fill: with the lowest ids that are neither listed nor
    seen, at score 0."""
    listed = (lists.ids > 0).sum(1)
    short = np.flatnonzero(listed < lists.ids.shape[1])
    size = len(catalogue) + 1
    seen = hidden.first[short + 1] - hidden.first[short]
    ids = hidden.keys[ranges(hidden.first[short], seen)] % hidden.columns + 1
    row, place = np.nonzero(lists.ids[short])
    # A short list holds all entries of its row that can be listed.
    taken = np.concatenate([
        np.repeat(np.arange(len(short)), seen) * size + np.searchsorted(catalogue.ids, ids),
        row * size + np.searchsorted(catalogue.ids, lists.ids[short][row, place]),
    ])  # fmt: skip
    wanted = np.arange(lists.ids.shape[1]) - listed[short, None]
    places = free_places(np.sort(taken), len(short), size, np.maximum(wanted, 0))
    filled = np.append(catalogue.ids, 0)[np.minimum(places, size - 1)]
    more = wanted >= 0
    lists.ids[short] = np.where(more, filled, lists.ids[short])
    zeros = np.where(filled > 0, np.float32(0), np.float32(-np.inf))
    lists.scores[short] = np.where(more, zeros, lists.scores[short])
