"""Tables that describe items or users → value ids per internal id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.prepare import AttributeTable
from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.prepare.arrays import Ids
from p5dist.prepare.attribute_kinds.kind import Values, kinds_of
from p5dist.prepare.layout import Layout, SourceFile
from p5dist.prepare.reading import read_range
from p5dist.prepare.sources import cut_files
from p5dist.prepare.values import as_text, is_null
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder


@dataclass(frozen=True)
class Described:
    """An attribute table as it was read."""

    text: pa.Table
    """Text of the id, the title and the attributes that models cannot read."""
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
        if not attribute.for_models:
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
    texts = [name for name, attribute in table.attributes.items() if not attribute.for_models]
    schema = c.attribute_schema(tuple(table.attributes), title=side == "item", text=texts)
    (prepare / f"attributes/{side}.parquet").write_table(pa.table(columns, schema=schema))
    return sizes, warnings


def _read(table: AttributeTable, files: list[SourceFile], side: str) -> Described:
    layout = Layout.of_attributes(table, f"prepare.{side}s")
    counted = {name: a for name, a in kinds_of(table.attributes).items() if a.for_models}
    values: dict[str, list[Values]] = {name: [] for name in counted}
    texts = []
    for part in cut_files(files, layout):
        for raw, _ in read_range(part, layout):
            for name, attribute in counted.items():
                values[name].append(attribute.parse(raw.column(f"attribute.{name}")))
            rest = [n for n in raw.column_names if n.removeprefix("attribute.") not in values]
            texts.append(pa.table({n: as_text(raw[n]) for n in rest}))
    return Described(
        pa.concat_tables(texts).combine_chunks(),
        {name: Values.concat(parts) for name, parts in values.items()},
    )


def _lists(values: Values, vocabulary: Vocabulary) -> pa.ListArray:
    """[n] value ids of every row; values without an id are left out."""
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
