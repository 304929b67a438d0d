"""The contract of an attribute kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.raw_files import Attribute
from p5dist.data.jagged import Array, Bools, Ints, ranges
from p5dist.prepare.arrays import one_array
from p5dist.prepare.column_types import Role, kind_of
from p5dist.prepare.values import as_text, coded, is_null


class WidthsError(Exception):
    """Vectors of two lengths; says which."""


@dataclass(frozen=True)
class Values:
    """Attribute values of n rows, laid end to end."""

    lengths: Ints
    """[n] number of values of each row."""
    value: pa.StringArray
    """[sum of lengths]"""
    unread: int = 0
    """Raw values that are no value of the kind."""
    example: str = ""
    """The first of them."""

    @classmethod
    def concat(cls, parts: list[Values]) -> Values:
        return cls(
            np.concatenate([part.lengths for part in parts]),
            pa.concat_arrays([part.value for part in parts]),
            sum(part.unread for part in parts),
            next((part.example for part in parts if part.unread), ""),
        )

    def take(self, rows: Ints) -> Values:
        """Values of the given rows, none where one is -1."""
        known = rows >= 0
        lengths = np.zeros(len(rows), np.int64)
        lengths[known] = self.lengths[rows[known]]
        starts = np.cumsum(self.lengths) - self.lengths
        index = ranges(starts[rows[known]], lengths[known])
        return Values(lengths, self.value.take(pa.array(index)))


class AttributeKind(Attribute):
    """One kind of attribute: its settings, and how a raw column becomes values.

    A job file names a kind by its name in :data:`p5dist.config.registry.ATTRIBUTES` or as
    ``kind: package.module:Class``. A kind of your own adds its settings as fields, and overrides
    :meth:`label` (another text for each value) or :meth:`split` (several values a row); methods
    that it does not override work as in ``category``. A kind with ``is_vector`` overrides
    :meth:`vectors`. ``for_models``, ``for_context``, ``is_vector``: see
    :class:`p5dist.config.raw_files.Attribute`.
    """

    role: ClassVar[Role] = "label"
    """Role of the column in a table about items or users, by which its type is checked."""

    def split(self, column: pa.Array) -> pa.Array:
        """[n] a list of raw values for each row, or one raw value for each row."""
        return column

    def label(self, values: pa.Array) -> pa.StringArray:
        """[n] the text that stands for each raw value; null where there is no value."""
        text = pc.utf8_trim_whitespace(as_text(values))
        return without(text, is_null(text))

    def parse(self, column: pa.ChunkedArray) -> Values:
        """Values of every row: none where the row is null; a value twice in a row counts once, and
        values of lists in lists belong to the row."""
        flat = self.split(one_array(column))
        row: Array = np.arange(len(column))
        while kind_of(flat.type) == "list":
            row, flat = row[np.asarray(pc.list_parent_indices(flat))], pc.list_flatten(flat)
        text = self.label(flat)
        keep = np.asarray(pc.is_valid(text))
        unread = ~keep & np.asarray(pc.is_valid(flat))
        if unread.any():
            null = is_null(pc.utf8_trim_whitespace(as_text(flat)))
            unread &= True if null is None else ~null
        example = as_text(flat.filter(pa.array(unread))[:1]).to_pylist() or [""]
        row, text = row[keep].astype(np.int64), text.filter(pa.array(keep))
        first = _first_of_pair(row, text)
        row, text = row[first], text.filter(pa.array(first))
        lengths = np.bincount(row, minlength=len(column)).astype(np.int64)
        return Values(lengths, text, int(unread.sum()), str(example[0]))

    def vectors(self, column: pa.ChunkedArray) -> tuple[npt.NDArray[np.float32], Bools]:
        """The vectors [n, width] of all rows, of length 1, and [n] whether the row has one; width
        is 0 if no row has a list. For kinds with ``is_vector``.

        Raises:
            WidthsError: two lengths.
        """
        raise NotImplementedError(f"{type(self).__name__} is no vector")

    def context(self, column: pa.ChunkedArray) -> pa.StringArray:
        """[n] the value of every interaction, "" where there is none (of a kind with one value)."""
        values, code = coded(column)
        return pc.fill_null(self.label(values), "").take(pa.array(code))


def kinds_of(attributes: Mapping[str, Attribute]) -> dict[str, AttributeKind]:
    """The attributes of a section of the job file: each was made by its kind."""
    return cast(dict[str, AttributeKind], dict(attributes))


def without(text: pa.StringArray, none: Bools | None) -> pa.StringArray:
    """``text``, with null where ``none`` is true."""
    return text if none is None else pc.if_else(pa.array(none), pa.scalar(None, pa.string()), text)


def _first_of_pair(row: Ints, text: pa.StringArray) -> Bools:
    codes = np.asarray(text.dictionary_encode().indices).astype(np.int64)
    keep = np.zeros(len(row), np.bool_)
    if len(row):
        _, first = np.unique(row * (codes.max() + 1) + codes, return_index=True)
        keep[first] = True
    return keep
