"""Tables that describe items or users → value ids per internal id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.raw_files import Attribute, AttributeTable
from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.prepare.arrays import Ids
from p5dist.prepare.attribute_kinds.kind import Values, kinds_of
from p5dist.prepare.layout import Layout, SourceFile
from p5dist.prepare.reading import read_range
from p5dist.prepare.rejects import shown
from p5dist.prepare.sources import cut_files
from p5dist.prepare.values import as_text, is_null
from p5dist.prepare.vectors import write_vectors
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder


@dataclass(frozen=True)
class Described:
    """An attribute table as it was read."""

    text: pa.Table
    """Text of the id, the title and the attributes that models cannot read."""
    values: dict[str, Values]
    """Of the other attributes."""
    malformed: int
    """Records that are not among the rows."""
    example: str | None
    """The first of them, if the format names it."""


@dataclass(frozen=True)
class WrittenTable:
    """What became of a table about items or users."""

    sizes: dict[str, int] = field(default_factory=dict)
    """Number of values of each attribute that has values."""
    widths: dict[str, int] = field(default_factory=dict)
    """Numbers of each vector."""
    rows: dict[str, int] = field(default_factory=dict)
    """See :attr:`.Manifest.item_rows`."""
    warnings: list[str] = field(default_factory=list)


def write_attributes(
    table: AttributeTable,
    files: list[SourceFile],
    side: str,
    ids: Vocabulary,
    prepare: Folder,
    earlier: Callable[[str], Ids | None],
    pseudonyms: str | None = None,
) -> WrittenTable:
    """Write attributes/<side>.parquet, vocabulary/<side>.<attribute>.parquet and
    vectors/<side>.<attribute>-<block>.npy.

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
        pseudonyms: of users, see :attr:`.Layout.pseudonyms`.
    """
    layout = Layout.of_attributes(table, f"prepare.{side}s", pseudonyms)
    found = _read(table, files, layout)
    first, counts, warnings = _kept(found, side)
    row = pc.index_in(ids.external, value_set=found.text[c.ID].take(pa.array(first)))
    if row.null_count:
        warnings.append(f"{row.null_count:,} of {len(ids):,} {side}s are not in prepare.{side}s")
    # Row of the table of every id.
    source = np.append(first, -1)[np.asarray(pc.fill_null(row, -1))]

    def shown_text(name: str) -> pa.ChunkedArray:
        return found.text[name].take(pa.array(source, mask=source < 0))

    columns: dict[str, pa.Array] = {c.ID: pa.array(np.arange(1, len(ids) + 1))}
    if side == "item":
        columns[c.TITLE] = shown_text(c.TITLE) if table.title else pa.nulls(len(ids), pa.string())
    sizes = {}
    for name, attribute in table.attributes.items():
        if attribute.is_vector:
            continue
        if not attribute.for_models:
            columns[name] = shown_text(f"attribute.{name}")
            continue
        values = found.values[name]
        vocabulary = _vocabulary(values.take(first), attribute, earlier(f"{side}.{name}"))
        columns[name] = _lists(values.take(source), vocabulary)
        sizes[name] = len(vocabulary)
        (prepare / f"vocabulary/{side}.{name}.parquet").write_table(vocabulary.table())
        knob = f"prepare.{side}s.attributes.{name}"
        warnings += _about_values(
            knob, attribute, values, len(values.take(first).value), sizes[name]
        )
    written = {name: a for name, a in table.attributes.items() if not a.is_vector}
    texts = [name for name, attribute in written.items() if not attribute.for_models]
    schema = c.attribute_schema(tuple(written), title=side == "item", text=texts)
    (prepare / f"attributes/{side}.parquet").write_table(pa.table(columns, schema=schema))
    widths, more = write_vectors(table, files, layout, side, ids, prepare)
    return WrittenTable(sizes, widths, counts, [*warnings, *more])


def _kept(found: Described, side: str) -> tuple[Ints, dict[str, int], list[str]]:
    """The rows that are the first of their id, the counts of all rows, and warnings."""
    first, null = _first_of_id(found.text[c.ID])
    rows = len(found.text)
    repeated = rows - null - len(first)
    left_out = {
        name: n
        for name, n in (
            ("malformed", found.malformed),
            ("null_id", null),
            ("repeated_id", repeated),
        )
        if n
    }
    such = "" if found.example is None else f" (the first: {shown(found.example)})"
    words = {
        "malformed": f"malformed and left out{such}",
        "null_id": "without an id and left out",
        "repeated_id": "left out, since an earlier row has the same id",
    }
    whole = rows + found.malformed
    warnings = [
        f"{n:,} of {whole:,} rows of prepare.{side}s are {words[name]}"
        for name, n in left_out.items()
    ]
    return first, {"in": whole, "kept": len(first), **left_out}, warnings


def _vocabulary(values: Values, attribute: Attribute, earlier: Ids | None) -> Vocabulary:
    ones = np.ones(len(values.value), np.int64)
    return Vocabulary.by_count([(values.value, ones, ones)], earlier, attribute.min_count)


def _about_values(
    knob: str, attribute: Attribute, values: Values, occurrences: int, size: int
) -> list[str]:
    warnings = []
    if values.unread:
        warnings.append(
            f"{knob}: {values.unread:,} values are no {attribute.kind} value and count as none "
            f"(the first: {shown(values.example)})"
        )
    if not size:
        rows = f"no value is in min_count {attribute.min_count} rows"
        warnings.append(f"{knob}: {rows if occurrences else 'no row has a value'}")
    return warnings


def _read(table: AttributeTable, files: list[SourceFile], layout: Layout) -> Described:
    layout = layout.without(
        f"attribute.{name}" for name, a in table.attributes.items() if a.is_vector
    )
    counted = {name: a for name, a in kinds_of(table.attributes).items() if a.for_models}
    values: dict[str, list[Values]] = {name: [] for name in counted}
    texts, malformed, example = [], 0, None
    for part in cut_files(files, layout):
        for records in read_range(part, layout):
            raw = records.rows
            for name, attribute in counted.items():
                values[name].append(attribute.parse(raw.column(f"attribute.{name}")))
            rest = [n for n in raw.column_names if n.removeprefix("attribute.") not in values]
            texts.append(pa.table({n: as_text(raw[n]) for n in rest}))
            malformed, example = malformed + records.malformed, example or records.example
    return Described(
        pa.concat_tables(texts).combine_chunks(),
        {name: Values.concat(parts) for name, parts in values.items()},
        malformed,
        example,
    )


def _lists(values: Values, vocabulary: Vocabulary) -> pa.ListArray:
    """[n] value ids of every row; values without an id are left out."""
    value = vocabulary.ids(values.value).astype(np.int32)
    known = np.concatenate([[0], np.cumsum(value > 0)])
    ends = np.concatenate([[0], np.cumsum(values.lengths)])
    offsets = known[ends].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(value[value > 0]))


def _first_of_id(ids: pa.ChunkedArray) -> tuple[Ints, int]:
    """Rows that have an id which no earlier row has, and the number of rows without an id."""
    codes = np.asarray(ids.combine_chunks().dictionary_encode().indices.fill_null(-1))
    null = is_null(ids)
    codes = codes if null is None else np.where(null, -1, codes)
    _, first = np.unique(codes, return_index=True)
    first = np.sort(first)
    return first[codes[first] >= 0].astype(np.int64), int((codes < 0).sum())
