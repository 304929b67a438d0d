"""Vectors of a table about items or users → matrices with a row for each internal id."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.raw_files import AttributeTable
from p5dist.data import columns as c
from p5dist.data.jagged import Bools
from p5dist.data.supplied import vectors_of
from p5dist.errors import DataError
from p5dist.prepare.arrays import one_array
from p5dist.prepare.attribute_kinds.kind import WidthsError, kinds_of
from p5dist.prepare.layout import Layout, SourceFile
from p5dist.prepare.reading import read_range
from p5dist.prepare.sources import cut_files
from p5dist.prepare.values import as_text
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import Folder


def write_vectors(
    table: AttributeTable,
    files: list[SourceFile],
    layout: Layout,
    side: str,
    ids: Vocabulary,
    prepare: Folder,
) -> tuple[dict[str, int], list[str]]:
    """Write the vectors of a table, block by block; a file on this machine holds them meanwhile, so
    that they need not fit into memory. Of rows with the same id, the first counts.

    Args:
        table: the section of the job.
        files: its files, checked.
        layout: how they are read.
        side: ``item`` or ``user``.
        ids: the vocabulary whose ids the rows get.
        prepare: folder of the stage.

    Returns:
        The width of each attribute, and warnings.

    Raises:
        DataError: vectors of two lengths.
    """
    kinds = {name: kind for name, kind in kinds_of(table.attributes).items() if kind.is_vector}
    if not kinds:
        return {}, []
    wanted = {c.ID, *(f"attribute.{name}" for name in kinds)}
    layout = layout.without(layout.columns.keys() - wanted)
    with tempfile.TemporaryDirectory(prefix="p5dist-") as scratch:
        made = {name: _Rows(Path(scratch, str(i)), len(ids)) for i, name in enumerate(kinds)}
        known = np.zeros(len(ids), dtype=bool)
        for part in cut_files(files, layout):
            begin = 0
            for records in read_range(part, layout):
                raw = records.rows
                row, index = _first_rows(raw.column(c.ID), ids, known)
                for name, kind in kinds.items():
                    try:
                        vectors, valid = kind.vectors(raw.column(f"attribute.{name}"))
                        made[name].put(vectors, valid, row, index)
                    except WidthsError as e:
                        raise DataError(
                            "vectors of two lengths", where=f"{part.file.url}, column "
                            f"'{layout.columns[f'attribute.{name}']}', rows from {begin:,} on",
                            value=str(e), rule="all vectors of an attribute have the same length",
                            fix=f"correct the file, or prepare.{side}s.attributes.{name}",
                        ) from e  # fmt: skip
                begin += len(raw)
        widths = {name: rows.write(prepare, side, name) for name, rows in made.items()}
    return widths, _warnings(made, side)


class _Rows:
    """The vectors of one attribute in a file: row i is that of id i, row 0 is zero."""

    def __init__(self, file: Path, ids: int) -> None:
        self._file, self._ids = file, ids
        self._values: npt.NDArray[np.float32] | None = None
        self.unread = self.there = 0

    def put(
        self,
        vectors: npt.NDArray[np.float32],
        valid: Bools,
        row: npt.NDArray[np.int64],
        index: npt.NDArray[np.int64],
    ) -> None:
        """Take in rows ``row`` of a table for the ids ``index + 1``."""
        keep = valid[row]
        self.unread += int((~keep).sum())
        self.there += int(keep.sum())
        if not vectors.shape[1] or not keep.any():
            return
        if self._values is None:
            shape = (self._ids + 1, vectors.shape[1])
            self._values = np.lib.format.open_memmap(
                self._file, mode="w+", dtype=np.float32, shape=shape
            )
        width = self._values.shape[1]
        if vectors.shape[1] != width:
            raise WidthsError(f"{vectors.shape[1]} numbers, {width} numbers in earlier rows")
        self._values[index[keep] + 1] = vectors[row[keep]]

    def write(self, prepare: Folder, side: str, name: str) -> int:
        """Write the blocks; the width."""
        width = 1 if self._values is None else self._values.shape[1]
        matrix = vectors_of(prepare, side, name, self._ids, width)
        for block in range(matrix.blocks):
            first, end = matrix.range_of(block)
            nothing = np.zeros((end - first, width), dtype=np.float32)
            matrix.write(block, nothing if self._values is None else self._values[first:end])
        return width


def _first_rows(
    external: pa.ChunkedArray, ids: Vocabulary, known: Bools
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows whose id the vocabulary has and no earlier row has, and the indices of the ids;
    ``known`` [ids] is kept up to date."""
    index = one_array(pc.index_in(as_text(external), value_set=ids.external))
    place = np.asarray(pc.fill_null(index, -1)).astype(np.int64)
    distinct, first = np.unique(place, return_index=True)
    new = distinct >= 0
    new[new] = ~known[distinct[new]]
    known[distinct[new]] = True
    return first[new], distinct[new]


def _warnings(made: Mapping[str, _Rows], side: str) -> list[str]:
    found = []
    for name, rows in made.items():
        knob = f"prepare.{side}s.attributes.{name}"
        if not rows.there:
            found.append(f"{knob}: no {side} of the log has a vector")
        elif rows.unread:
            found.append(
                f"{knob}: {rows.unread:,} of {rows.unread + rows.there:,} {side}s have no vector "
                "(null, zero, or numbers that are not finite)"
            )
    return found
