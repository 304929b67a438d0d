"""How a read unit becomes tables of raw columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from p5dist.errors import DataError
from p5dist.prepare.column_types import kind_of, plain
from p5dist.prepare.layout import MAX_ROWS, Layout, SourceFile, Unit, bounded
from p5dist.prepare.lines import read_lines
from p5dist.prepare.values import as_text
from p5dist.storage import open_filesystem

_BATCH_ROWS = 1 << 18


def read_unit(unit: Unit, layout: Layout) -> Iterator[tuple[pa.Table, int]]:
    """At least one table of the unit's rows, in order and under our names, each with the number of
    malformed lines that came with it.

    Columns have the types of the file (see :mod:`.column_types`), text in any encoding being
    string or dictionary of string, and in text formats mostly all; a table has at most about
    MAX_ROWS rows and MAX_BYTES bytes.

    Raises:
        DataError: not UTF-8, or not of the stated format.
    """
    nothing = True
    try:
        read = _read_parquet if layout.format == "parquet" else read_lines
        for table, malformed in read(unit, layout):
            for start in range(0, max(len(table), 1), MAX_ROWS):
                part = table.slice(start, MAX_ROWS)
                yield _under_our_names(part, unit.file, layout), 0 if start else malformed
                nothing = False
    except (OSError, pa.ArrowInvalid) as e:
        raise DataError("a file cannot be read", where=unit.file.url, value=str(e)) from e
    if nothing:
        yield pa.table({ours: pa.array([], pa.string()) for ours in layout.columns}), 0


def _read_parquet(unit: Unit, layout: Layout) -> Iterator[tuple[pa.Table, int]]:
    """The row groups of a unit."""
    fs, path = open_filesystem(unit.file.url)
    few = [layout.columns[ours] for ours in unit.file.types if layout.roles[ours] == "label"]
    with pq.ParquetFile(
        path, filesystem=fs, coerce_int96_timestamp_unit="us", read_dictionary=few,
        pre_buffer=not isinstance(fs, pafs.LocalFileSystem),
    ) as file:  # fmt: skip
        groups = list(range(unit.start, unit.stop))
        for table in bounded(
            file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=unit.file.wanted(layout))
        ):
            yield table, 0


def _under_our_names(table: pa.Table, file: SourceFile, layout: Layout) -> pa.Table:
    n, found = len(table), {}
    for ours, theirs in layout.columns.items():
        if theirs in table.column_names:
            found[ours] = _usual_text(table[theirs], theirs, file)
        else:
            code = pa.array(np.zeros(n, np.int32))
            value = pa.array([file.partition[theirs]])
            found[ours] = pa.chunked_array([pa.DictionaryArray.from_arrays(code, value)])
    return pa.table(found)


def _usual_text(column: pa.ChunkedArray, name: str, file: SourceFile) -> pa.ChunkedArray:
    if kind_of(column.type) != "text" or plain(column.type) == pa.string():
        return column
    try:
        return as_text(column)
    except pa.ArrowInvalid as e:
        raise DataError(
            f"column '{name}' holds bytes that are no UTF-8 text", where=file.url, value=str(e),
            rule="ids are integers, text, or UUIDs (16 bytes of fixed size)",
            fix="convert them to text, for example to hexadecimal digits",
        ) from e  # fmt: skip
