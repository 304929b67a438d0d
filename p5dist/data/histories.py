"""Histories in memory: jagged columns as flat NumPy arrays with offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from p5dist.data import columns as c
from p5dist.data.jagged import Ints, offsets_of, ranges
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
    """[T] seconds"""
    event: npt.NDArray[np.int8]
    """[T]"""
    rating: npt.NDArray[np.float32]
    """[T]"""
    split: npt.NDArray[np.int8]
    """[T] columns.TRAIN, VALIDATION or TEST"""

    @classmethod
    def empty(cls) -> Histories:
        """No history at all."""
        return cls.from_table(c.HISTORY.empty_table())

    def __len__(self) -> int:
        return len(self.user)

    @property
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

        return cls(
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
        first = parts[0]
        ends = np.cumsum([part.offsets[-1] for part in parts]) - [p.offsets[-1] for p in parts]
        offsets = [p.offsets[1:] + end for p, end in zip(parts, ends, strict=True)]
        flat = {
            f.name: _joined([getattr(p, f.name) for p in parts])
            for f in fields(first)
            if f.name != "offsets"
        }
        return cls(offsets=np.concatenate([first.offsets[:1], *offsets]), **flat)

    def to_table(self) -> pa.Table:
        """A table of schema columns.HISTORY, without the columns that are zero, and with the row
        numbers as one more column ``row``."""
        offsets = pa.array(self.offsets.astype(np.int32))
        columns: dict[str, Any] = {c.USER: self.user}
        for name in (c.ITEM, c.TIMESTAMP, c.EVENT, c.RATING, c.SPLIT):
            values = getattr(self, name)
            if name == c.ITEM or not _is_zero(values):
                columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values))
        return pa.table({**columns, "row": self.row})

    def owner(self) -> Ints:
        """[T] index of the history that each interaction belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def position(self) -> Ints:
        """[T] index of each interaction in its history, from 0."""
        return np.arange(len(self.item), dtype=np.int64) - np.repeat(
            self.offsets[:-1], self.lengths
        )

    def where(self, keep: npt.NDArray[np.bool_]) -> Histories:
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

    def take(self, index: Ints, start: Ints | None = None, length: int | None = None) -> Histories:
        """Histories ``index`` [n] in that order; of each only the interactions from ``start`` [n]
        on (at most as many as there are), and at most ``length`` of them."""
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
        """The same in memory of its own."""
        return Histories.concat([self])

    def _replace(
        self, offsets: Ints, source: npt.NDArray[Any] | slice, rows: Ints | slice = slice(None)
    ) -> Histories:
        def values(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if _is_zero(column):
                return _zeros(column.dtype, int(offsets[-1]))
            taken: npt.NDArray[Any] = column[source]
            return taken

        return Histories(
            user=self.user[rows],
            row=self.row[rows],
            offsets=offsets,
            item=values(self.item),
            timestamp=values(self.timestamp),
            event=values(self.event),
            rating=values(self.rating),
            split=values(self.split),
        )


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
