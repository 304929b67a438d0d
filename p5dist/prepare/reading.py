"""How a range of a file becomes tables of raw columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from p5dist.data import columns as c
from p5dist.errors import DataError
from p5dist.prepare.column_types import Role, kind_of, plain
from p5dist.prepare.layout import MAX_ROWS, FileRange, Layout, SourceFile
from p5dist.prepare.pseudonyms import key_of, with_pseudonyms
from p5dist.prepare.values import as_text, check_exact

_NOUNS: dict[Role, str] = {"id": "ids", "time": "times"}
"""Of the columns whose values must be exact."""


@dataclass(frozen=True)
class Records:
    """Some records of a range."""

    rows: pa.Table
    """Under our names."""
    malformed: int
    """Malformed records since the preceding table."""
    example: str | None
    """The first malformed record of the range so far, if the format names it."""


def read_range(part: FileRange, layout: Layout) -> Iterator[Records]:
    """The records of a range in order, in at least one table.

    Columns have the types of the file (see :mod:`.column_types`), text in any encoding being
    string or dictionary of string, and in text formats mostly all; a table has at most about
    MAX_ROWS rows and MAX_BYTES bytes.

    Raises:
        DataError: not UTF-8, or not of the stated format.
    """
    nothing, read_by = True, layout.source_format
    try:
        for table, malformed in read_by.read(part):
            for start in range(0, max(len(table), 1), MAX_ROWS):
                rows = _under_our_names(table.slice(start, MAX_ROWS), part.file, layout)
                yield Records(rows, 0 if start else malformed, read_by.malformed_example)
                nothing = False
    except (OSError, pa.ArrowInvalid) as e:
        raise DataError("a file cannot be read", where=part.file.url, value=str(e)) from e
    if nothing:
        yield Records(
            pa.table({ours: pa.array([], pa.string()) for ours in layout.columns}), 0, None
        )


def _under_our_names(table: pa.Table, file: SourceFile, layout: Layout) -> pa.Table:
    n, found = len(table), {}
    for ours, theirs in layout.columns.items():
        if theirs in table.column_names:
            found[ours] = _usual_text(table[theirs], theirs, file)
            if (role := layout.roles[ours]) in _NOUNS:
                check_exact(found[ours], theirs, file.url, _NOUNS[role])
        elif theirs in file.columns:
            raise DataError(
                f"format '{layout.format}' has not read column '{theirs}'", where=file.url,
                value=f"columns of the table: {', '.join(table.column_names)}",
                rule="a table has the columns that the file is said to have",
                fix="correct columns() or read() of the format",
            )  # fmt: skip
        else:
            code = pa.array(np.zeros(n, np.int32))
            value = pa.array([file.partition[theirs]])
            found[ours] = pa.chunked_array([pa.DictionaryArray.from_arrays(code, value)])
    if layout.pseudonyms is not None:
        key = key_of(layout.pseudonyms, "prepare.privacy.pseudonyms")
        for ours in (c.USER, c.ID):
            if ours in found:
                found[ours] = with_pseudonyms(found[ours], key)
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
