"""Histories in memory: jagged columns as flat NumPy arrays with offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints, Jagged, offsets_of, ranges
from p5dist.data.randomness import Stream, hashed


@dataclass(frozen=True)
class Histories:
    """B histories with T interactions together.

    ``item[offsets[i]:offsets[i + 1]]`` is history i in the order of time, and likewise for the
    other columns of an interaction.
    """

    user: Ints
    """[B] internal user ids."""
    row: Ints
    """[B] row numbers in the whole data set (see ShardFile.first_row)."""
    offsets: Ints
    """[B + 1]"""
    item: Ints
    """[T]"""
    timestamp: Ints
    """[T] microseconds"""
    event: npt.NDArray[np.int8]
    """[T]"""
    rating: npt.NDArray[np.float32]
    """[T]"""
    split: npt.NDArray[np.int8]
    """[T] columns.TRAIN, VALIDATION or TEST"""
    had: Jagged | None = None
    """If asked for: all distinct training items of some users, the users of these histories among
    them."""
    had_of: Ints | None = None
    """[B] index of the user of each history in ``had``."""

    @classmethod
    def empty(cls, number: int = 0) -> Histories:
        """``number`` histories without interactions, of no user."""
        nothing = cls.from_table(c.HISTORY.empty_table())
        nobody = np.zeros(number, dtype=np.int64)
        return replace(nothing, user=nobody, row=nobody, offsets=np.append(nobody, 0))

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def lengths(self) -> Ints:
        """[B]"""
        return np.diff(self.offsets)

    @classmethod
    def from_table(cls, table: pa.Table, rows: Ints | None = None) -> Histories:
        """From a table of schema columns.HISTORY.

        ``rows`` are its row numbers; left out, they are its column ``row``, or 0…. Interaction
        columns that the table does not have are zero, and take no memory.
        """
        table = table.combine_chunks()
        item = _flat(table, c.ITEM)
        offsets = np.asarray(item.offsets, dtype=np.int64)
        start, end = int(offsets[0]), int(offsets[-1])
        if rows is None:
            named = "row" in table.column_names
            rows = table["row"].to_numpy() if named else np.arange(len(table), dtype=np.int64)

        def values(name: str) -> npt.NDArray[Any]:
            if name not in table.column_names:
                kind = c.HISTORY.field(name).type.value_type.to_pandas_dtype()
                return _zeros(kind, end - start)
            return np.asarray(_flat(table, name).values[start:end])

        had, had_of = None, None
        if _HAD in table.column_names:
            had_of = table[_HAD_OF].to_numpy()
            had = _had_from(table[_HAD], had_of)
        return cls(
            had=had,
            had_of=had_of,
            user=table[c.USER].to_numpy(),
            row=rows,
            offsets=offsets - start,
            item=values(c.ITEM),
            timestamp=values(c.TIMESTAMP),
            event=values(c.EVENT),
            rating=values(c.RATING),
            split=values(c.SPLIT),
        )

    @classmethod
    def concat(cls, parts: Sequence[Histories]) -> Histories:
        """All histories of the parts, one part after the other; there is at least one part."""
        ends = np.cumsum([part.offsets[-1] for part in parts]) - [p.offsets[-1] for p in parts]
        offsets = [p.offsets[1:] + end for p, end in zip(parts, ends, strict=True)]
        flat = {name: _joined([getattr(p, name) for p in parts]) for name in _ARRAYS}
        knowing = [p for p in parts if p.had is not None and p.had_of is not None]
        had, had_of = None, None
        if knowing:
            assert sum(map(len, knowing)) == sum(map(len, parts)), "all parts know it or none"
            had = Jagged.concat([p.had for p in knowing if p.had is not None])
            sizes = [len(p.had) for p in knowing if p.had is not None]
            first = np.cumsum(sizes) - sizes
            had_of = np.concatenate(
                [p.had_of + n for p, n in zip(knowing, first, strict=True) if p.had_of is not None]
            )
        return cls(
            offsets=np.concatenate([parts[0].offsets[:1], *offsets]),
            had=had,
            had_of=had_of,
            **flat,
        )

    def to_table(self) -> pa.Table:
        """A table of schema columns.HISTORY, without the columns that are zero, and with the row
        numbers as one more column ``row``."""
        offsets = pa.array(self.offsets.astype(np.int32))
        columns: dict[str, Any] = {c.USER: self.user}
        for name in (c.ITEM, c.TIMESTAMP, c.EVENT, c.RATING, c.SPLIT):
            values = getattr(self, name)
            if name == c.ITEM or not _is_zero(values):
                columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values))
        if self.had is not None and self.had_of is not None:
            columns |= {_HAD: _had_to(self.had, self.had_of), _HAD_OF: self.had_of}
        return pa.table({**columns, "row": self.row})

    def owner(self) -> Ints:
        """[T] index of the history that each interaction belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def position(self) -> Ints:
        """[T] index of each interaction in its history, from 0."""
        return np.arange(len(self.item), dtype=np.int64) - np.repeat(
            self.offsets[:-1], self.lengths
        )

    def where(self, keep: Bools) -> Histories:
        """Only the interactions with ``keep`` [T]; every history stays, if need be empty."""
        if keep.all():
            return self
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        return self._replace(offsets, keep)

    def training(self) -> Histories:
        """Only the interactions of the training split, which is then no column any more."""
        kept = self.where(self.split == c.TRAIN)
        return replace(kept, split=_zeros(np.int8, len(kept.split)))

    def window(self, start: Ints, length: int) -> Histories:
        """At most ``length`` interactions of each history from ``start`` [B] on."""
        return self.take(np.arange(len(self)), start, length)

    def last(self, length: int) -> Histories:
        """The last ``length`` interactions of each history."""
        return self.window(np.maximum(self.lengths - length, 0), length)

    def shuffled(self, seed: int, epoch: int | Ints) -> Histories:
        """The interactions of each history in an order drawn from (seed, epoch, row).

        Args:
            epoch: one number, or one for each history [B].
        """
        owner = self.owner()
        drawn_for = np.broadcast_to(epoch, len(self))[owner]
        drawn = hashed(seed, Stream.SHUFFLED_HISTORIES, drawn_for, self.row[owner], self.position())
        order = np.lexsort((drawn[: len(owner)], owner))
        return self._replace(self.offsets, order)

    def take(
        self, index: Ints, start: Ints | None = None, length: int | Ints | None = None
    ) -> Histories:
        """Histories ``index`` [n] in that order; of each only the interactions from ``start`` [n]
        on (at most as many as there are), and at most ``length`` (one number or [n]) of them."""
        first, lengths = self.offsets[:-1][index], self.lengths[index]
        if start is not None:
            first, lengths = first + start, np.maximum(lengths - start, 0)
        if length is not None:
            lengths = np.minimum(lengths, length)
        return self._replace(offsets_of(lengths), ranges(first, lengths), index)

    def between(self, begin: int, end: int) -> Histories:
        """Histories ``begin`` … ``end - 1``, in the same memory."""
        offsets = self.offsets[begin : end + 1]
        return self._replace(
            offsets - offsets[0], slice(int(offsets[0]), int(offsets[-1])), slice(begin, end)
        )

    def copy(self) -> Histories:
        """The same in memory of its own, which holds nothing of other histories."""
        copied = Histories.concat([self])
        if copied.had is None or copied.had_of is None:
            return copied
        users, of = np.unique(copied.had_of, return_inverse=True)
        return replace(copied, had=copied.had.take(users), had_of=of)

    def joined(self, first: Ints) -> Histories:
        """Neighbouring histories as one: entry i is all from ``first[i]`` to before the next.

        Args:
            first: rising, from 0.
        """
        offsets = np.append(self.offsets[:-1][first], self.offsets[-1])
        return replace(
            self, user=self.user[first], row=self.row[first], offsets=offsets, had=None, had_of=None
        )

    def divided(self, starts: Ints) -> Histories:
        """Histories cut into pieces that begin at the interactions ``starts`` (rising; every
        history that is not empty begins a piece)."""
        owner = self.owner()[starts]
        return replace(
            self,
            user=self.user[owner],
            row=self.row[owner],
            offsets=np.append(starts, len(self.item)).astype(np.int64),
            had=None,
            had_of=None,
        )

    def _replace(
        self, offsets: Ints, source: npt.NDArray[Any] | slice, rows: Ints | slice = slice(None)
    ) -> Histories:
        def values(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if _is_zero(column):
                return _zeros(column.dtype, int(offsets[-1]))
            taken: npt.NDArray[Any] = column[source]
            return taken

        return Histories(
            had=self.had,
            had_of=None if self.had_of is None else self.had_of[rows],
            user=self.user[rows],
            row=self.row[rows],
            offsets=offsets,
            item=values(self.item),
            timestamp=values(self.timestamp),
            event=values(self.event),
            rating=values(self.rating),
            split=values(self.split),
        )


_ARRAYS = ("user", "row", "item", "timestamp", "event", "rating", "split")
_HAD, _HAD_OF = "had", "had_of"


def _had_to(had: Jagged, had_of: Ints) -> pa.Array:
    """[B] the items of each user beside the first of its histories, null beside the others."""
    _, first = np.unique(had_of, return_index=True)
    lengths = np.zeros(len(had_of), dtype=np.int64)
    lengths[first] = had.lengths[had_of[first]]
    in_order = np.sort(first)
    mask = np.ones(len(had_of), dtype=bool)
    mask[first] = False
    return pa.ListArray.from_arrays(
        pa.array(offsets_of(lengths).astype(np.int32)),
        pa.array(had.take(had_of[in_order]).values),
        mask=pa.array(mask),
    )


def _had_from(column: pa.ChunkedArray, had_of: Ints) -> Jagged:
    """The inverse of :func:`_had_to`."""
    lists = column.combine_chunks()
    there = np.flatnonzero(np.asarray(lists.is_valid()))
    kept = lists.take(pa.array(there))
    listed = Jagged(np.asarray(kept.offsets, dtype=np.int64), np.asarray(kept.values))
    listed = listed.take(np.arange(len(there)))
    found_at = np.full(int(had_of.max(initial=-1)) + 1, 0, dtype=np.int64)
    found_at[had_of[there]] = np.arange(len(there))
    return listed.take(found_at)


def _zeros(kind: Any, n: int) -> npt.NDArray[Any]:
    """[n] zeros that share one place in memory: a column that is not there."""
    return np.broadcast_to(np.zeros(1, dtype=kind), n)


def _is_zero(values: npt.NDArray[Any]) -> bool:
    """Whether this is an array of :func:`_zeros`."""
    return values.strides == (0,)


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if all(map(_is_zero, parts)):
        return _zeros(parts[0].dtype, sum(map(len, parts)))
    return np.concatenate(parts)


def _flat(table: pa.Table, name: str) -> pa.ListArray:
    column = table[name]
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
