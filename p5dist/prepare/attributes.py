"""Tables that describe items or users → value ids per internal id."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist import columns as c
from p5dist.config.prepare import Attribute, AttributeTable
from p5dist.prepare.arrays import Bools, Ints
from p5dist.prepare.cleaning import is_null, numbers
from p5dist.prepare.reading import Layout, SourceFile, read_unit
from p5dist.prepare.sources import plan_units
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder


@dataclass(frozen=True)
class Values:
    """Attribute values of n table rows, laid end to end."""

    lengths: Ints
    """[n] number of values of each row."""
    value: pa.StringArray
    """[sum of lengths]"""


def write_attributes(
    table: AttributeTable,
    files: list[SourceFile],
    side: str,
    ids: Vocabulary,
    prepare: Folder,
) -> tuple[dict[str, int], list[str]]:
    """Write attributes/<side>.parquet and vocabulary/<side>.<attribute>.parquet.

    Rows without an id, or with one that came before, are left out. Value ids go from 1 by falling
    count over the rest of the table (ids that the log does not have count too), ties by value;
    ``count`` in these vocabularies is that count.

    Args:
        table: the section of the job.
        files: its files, checked.
        side: ``item`` or ``user``.
        ids: the vocabulary whose ids the rows get.
        prepare: folder of the stage.

    Returns:
        The number of values of each attribute, and warnings.
    """
    layout = Layout.of_attributes(table, f"prepare.{side}s")
    raw = pa.concat_tables(read_unit(unit, layout)[0] for unit in plan_units(files, layout))
    raw = raw.combine_chunks()
    first = _first_of_id(raw[c.ID])
    warnings = []
    if len(first) < len(raw):
        warnings.append(
            f"{len(raw) - len(first):,} rows of prepare.{side}s have no id or a repeated one: "
            "the first row of an id counts"
        )
    raw = raw.take(pa.array(first))
    row = pc.index_in(ids.external, value_set=raw[c.ID].combine_chunks())
    missing = row.null_count
    if missing:
        warnings.append(f"{missing:,} of {len(ids):,} {side}s are not in prepare.{side}s")
    source = np.asarray(pc.fill_null(row, -1)).astype(np.int64)

    columns: list[pa.Array] = [pa.array(np.arange(1, len(ids) + 1))]
    if side == "item":
        columns.append(raw[c.TITLE].take(row) if table.title else pa.nulls(len(ids), pa.string()))
    sizes = {}
    for name, attribute in table.attributes.items():
        values = parse(raw[f"attribute.{name}"], attribute)
        ones = np.ones(len(values.value), np.int64)
        vocabulary = Vocabulary.by_count([(values.value, ones, ones)])
        columns.append(_lists(values, vocabulary, source))
        sizes[name] = len(vocabulary)
        (prepare / f"vocabulary/{side}.{name}.parquet").write_table(vocabulary.table())
        if not sizes[name]:
            warnings.append(f"prepare.{side}s.attributes.{name}: no row has a value")
    schema = c.attribute_schema(tuple(table.attributes), title=side == "item")
    (prepare / f"attributes/{side}.parquet").write_table(pa.table(columns, schema=schema))
    return sizes, warnings


def parse(column: pa.ChunkedArray, attribute: Attribute) -> Values:
    """Values of every row: none where it is null; a value twice in a row counts once.

    A numeric value x becomes the bin (low, high] that holds it; what is no number is null.
    """
    if pa.types.is_list(column.type):
        array = pa.chunked_array(column.chunks, column.type).combine_chunks()
        row, text = np.asarray(pc.list_parent_indices(array)), pc.list_flatten(array)
    elif attribute.kind == "multi":
        parts = pc.split_pattern(column, attribute.separator).combine_chunks()
        row, text = np.asarray(pc.list_parent_indices(parts)), pc.list_flatten(parts)
    else:
        row, text = np.arange(len(column)), column.combine_chunks()
    text = pc.utf8_trim_whitespace(_plain(text))
    keep = ~is_null(text)
    if attribute.kind == "numeric":
        assert attribute.bins is not None
        number, bad = numbers(text)
        keep &= ~bad
        place = np.searchsorted(np.array(attribute.bins), number, side="left")
        text = _bin_names(attribute.bins).take(pa.array(place))
    row, text = row[keep].astype(np.int64), text.filter(pa.array(keep))
    first = _first_of_pair(row, text)
    row, text = row[first], text.filter(pa.array(first))
    return Values(np.bincount(row, minlength=len(column)).astype(np.int64), text)


def _lists(values: Values, vocabulary: Vocabulary, source: Ints) -> pa.ListArray:
    """[len(source)] value ids of table row ``source[i]``, none where it is -1."""
    known = source >= 0
    lengths = np.where(known, values.lengths[source], 0) if len(values.lengths) else source * 0
    starts = np.cumsum(values.lengths) - values.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    begin = starts[source[known]] - offsets[:-1][known]
    index = np.arange(offsets[-1]) + np.repeat(begin, lengths[known])
    value = vocabulary.ids(values.value)[index].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(value))


def _first_of_id(ids: pa.ChunkedArray) -> Ints:
    """Rows that have an id which no earlier row has."""
    codes = np.asarray(ids.combine_chunks().dictionary_encode().indices.fill_null(-1))
    codes = np.where(is_null(ids), -1, codes)
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


def _plain(text: pa.Array) -> pa.Array:
    return pa.concat_arrays(text.chunks) if isinstance(text, pa.ChunkedArray) else text


def _bin_names(bins: tuple[float, ...]) -> pa.StringArray:
    edges = ["-inf", *(f"{edge:g}" for edge in bins), "inf"]
    return pa.array([f"({a}, {b}]" for a, b in pairwise(edges)])
