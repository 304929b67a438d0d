"""Tables that describe items or users → value ids per internal id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.prepare import Attribute, AttributeTable
from p5dist.data import columns as c
from p5dist.data.jagged import Array, Bools, Ints, ranges
from p5dist.prepare.arrays import Ids
from p5dist.prepare.column_types import kind_of
from p5dist.prepare.layout import Layout, SourceFile
from p5dist.prepare.reading import read_unit
from p5dist.prepare.sources import plan_units
from p5dist.prepare.values import as_text, is_null, labels
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder

_BETWEEN_WORDS = r"[^\p{L}\p{M}\p{N}]+"


@dataclass(frozen=True)
class Values:
    """Attribute values of n rows, laid end to end."""

    lengths: Ints
    """[n] number of values of each row."""
    value: pa.StringArray
    """[sum of lengths]"""

    @classmethod
    def concat(cls, parts: list[Values]) -> Values:
        return cls(
            np.concatenate([part.lengths for part in parts]),
            pa.concat_arrays([part.value for part in parts]),
        )

    def take(self, rows: Ints) -> Values:
        """Values of the given rows, none where one is -1."""
        known = rows >= 0
        lengths = np.zeros(len(rows), np.int64)
        lengths[known] = self.lengths[rows[known]]
        starts = np.cumsum(self.lengths) - self.lengths
        index = ranges(starts[rows[known]], lengths[known])
        return Values(lengths, self.value.take(pa.array(index)))


@dataclass(frozen=True)
class Described:
    """An attribute table as it was read."""

    text: pa.Table
    """Text of the id, the title and the attributes of kind ``text``."""
    values: dict[str, Values]
    """Of the other attributes."""


def write_attributes(
    table: AttributeTable,
    files: list[SourceFile],
    side: str,
    ids: Vocabulary,
    prepare: Folder,
    earlier: Callable[[str], Ids | None],
) -> tuple[dict[str, int], list[str]]:
    """Write attributes/<side>.parquet and vocabulary/<side>.<attribute>.parquet.

    Rows without an id, or with one that came before, are left out. Value ids go from 1 by falling
    count over the rest of the table (ids that the log does not have count too), ties by value;
    ``count`` in these vocabularies is that count. Values below ``min_count`` get none.

    Args:
        table: the section of the job.
        files: its files, checked.
        side: ``item`` or ``user``.
        ids: the vocabulary whose ids the rows get.
        prepare: folder of the stage.
        earlier: by name of a vocabulary, values that keep the ids 1…n.

    Returns:
        The number of values of each attribute, and warnings.
    """
    found = _read(table, files, side)
    first = _first_of_id(found.text[c.ID])
    warnings = []
    if len(first) < len(found.text):
        warnings.append(
            f"{len(found.text) - len(first):,} rows of prepare.{side}s have no id or a repeated "
            "one: the first row of an id counts"
        )
    row = pc.index_in(ids.external, value_set=found.text[c.ID].take(pa.array(first)))
    if row.null_count:
        warnings.append(f"{row.null_count:,} of {len(ids):,} {side}s are not in prepare.{side}s")
    # Row of the table of every id.
    source = np.append(first, -1)[np.asarray(pc.fill_null(row, -1))]

    def shown(name: str) -> pa.ChunkedArray:
        return found.text[name].take(pa.array(source, mask=source < 0))

    columns: dict[str, pa.Array] = {c.ID: pa.array(np.arange(1, len(ids) + 1))}
    if side == "item":
        columns[c.TITLE] = shown(c.TITLE) if table.title else pa.nulls(len(ids), pa.string())
    sizes = {}
    for name, attribute in table.attributes.items():
        if attribute.kind == "text":
            columns[name] = shown(f"attribute.{name}")
            continue
        counted = found.values[name].take(first).value
        ones = np.ones(len(counted), np.int64)
        vocabulary = Vocabulary.by_count(
            [(counted, ones, ones)], earlier(f"{side}.{name}"), attribute.min_count
        )
        columns[name] = _lists(found.values[name].take(source), vocabulary)
        sizes[name] = len(vocabulary)
        (prepare / f"vocabulary/{side}.{name}.parquet").write_table(vocabulary.table())
        if not sizes[name]:
            rows = "no row has a value"
            if len(counted):
                rows = f"no value is in min_count {attribute.min_count} rows"
            warnings.append(f"prepare.{side}s.attributes.{name}: {rows}")
    texts = [name for name, attribute in table.attributes.items() if attribute.kind == "text"]
    schema = c.attribute_schema(tuple(table.attributes), title=side == "item", text=texts)
    (prepare / f"attributes/{side}.parquet").write_table(pa.table(columns, schema=schema))
    return sizes, warnings


def parse(column: pa.ChunkedArray, attribute: Attribute) -> Values:
    """Values of every row: none where it is null; a value twice in a row counts once."""
    flat = _one_chunk(column)
    if attribute.kind == "multi" and kind_of(flat.type) != "list":
        flat = pc.split_pattern(as_text(flat), attribute.separator)
    elif attribute.kind == "words":
        flat = pc.split_pattern_regex(pc.utf8_lower(as_text(flat)), _BETWEEN_WORDS)
    row: Array = np.arange(len(column))
    if kind_of(flat.type) == "list":
        row, flat = np.asarray(pc.list_parent_indices(flat)), pc.list_flatten(flat)
    text = labels(flat, attribute)
    keep = np.asarray(pc.is_valid(text))
    row, text = row[keep].astype(np.int64), text.filter(pa.array(keep))
    first = _first_of_pair(row, text)
    row, text = row[first], text.filter(pa.array(first))
    return Values(np.bincount(row, minlength=len(column)).astype(np.int64), text)


def _read(table: AttributeTable, files: list[SourceFile], side: str) -> Described:
    layout = Layout.of_attributes(table, f"prepare.{side}s")
    named = [(name, a) for name, a in table.attributes.items() if a.kind != "text"]
    values: dict[str, list[Values]] = {name: [] for name, _ in named}
    texts = []
    for unit in plan_units(files, layout):
        for raw, _ in read_unit(unit, layout):
            for name, attribute in named:
                values[name].append(parse(raw.column(f"attribute.{name}"), attribute))
            rest = [n for n in raw.column_names if n.removeprefix("attribute.") not in values]
            texts.append(pa.table({n: as_text(raw[n]) for n in rest}))
    return Described(
        pa.concat_tables(texts).combine_chunks(),
        {name: Values.concat(parts) for name, parts in values.items()},
    )


def _lists(values: Values, vocabulary: Vocabulary) -> pa.ListArray:
    """[n] value ids of every row, without those of values that have none."""
    value = vocabulary.ids(values.value).astype(np.int32)
    known = np.concatenate([[0], np.cumsum(value > 0)])
    ends = np.concatenate([[0], np.cumsum(values.lengths)])
    offsets = known[ends].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(value[value > 0]))


def _first_of_id(ids: pa.ChunkedArray) -> Ints:
    """Rows that have an id which no earlier row has."""
    codes = np.asarray(ids.combine_chunks().dictionary_encode().indices.fill_null(-1))
    null = is_null(ids)
    codes = codes if null is None else np.where(null, -1, codes)
    _, first = np.unique(codes, return_index=True)
    first = np.sort(first)
    return first[codes[first] >= 0].astype(np.int64)


def _first_of_pair(row: Ints, text: pa.StringArray) -> Bools:
    codes = np.asarray(text.dictionary_encode().indices).astype(np.int64)
    keep = np.zeros(len(row), np.bool_)
    if len(row):
        _, first = np.unique(row * (codes.max() + 1) + codes, return_index=True)
        keep[first] = True
    return keep


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
