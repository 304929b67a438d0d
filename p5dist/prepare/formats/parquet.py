"""Parquet files, cut at their row groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from p5dist.prepare.formats.format import SourceFormat
from p5dist.prepare.layout import MAX_ROWS, FileRange, SourceFile, bounded, check_unique
from p5dist.storage import open_filesystem

_BATCH_ROWS = 1 << 18


class Parquet(SourceFormat):
    """Columns have types, and a file says how many rows it has. Edges of ranges are row groups."""

    has_lists = True

    def columns(self, url: str) -> tuple[str, ...]:
        fs, path = open_filesystem(url)
        return tuple(pq.read_schema(path, filesystem=fs).names)

    def inspect(self, file: SourceFile) -> SourceFile:
        fs, path = open_filesystem(file.url)
        with pq.ParquetFile(path, filesystem=fs) as opened:
            meta, schema = opened.metadata, opened.schema_arrow
        file = replace(file, columns=tuple(schema.names))
        check_unique(file, self.layout)
        wanted = file.wanted(self.layout)
        leaves = [
            i for i in range(meta.num_columns)
            if meta.schema.column(i).path.split(".", 1)[0] in wanted
        ]  # fmt: skip
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        return replace(
            file,
            types={
                ours: schema.field(theirs).type
                for ours, theirs in self.layout.columns.items()
                if theirs in wanted
            },
            groups=tuple(
                (g.num_rows, sum(g.column(i).total_uncompressed_size for i in leaves))
                for g in groups
            ),
        )

    def edges(self, file: SourceFile, range_bytes: int) -> list[int]:
        edges, rows, size = [0], 0, 0
        for i, (more_rows, more_bytes) in enumerate(file.groups):
            rows, size = rows + more_rows, size + more_bytes
            if size >= range_bytes or rows >= MAX_ROWS or i == len(file.groups) - 1:
                edges.append(i + 1)
                rows = size = 0
        return edges

    def rows(self, file: SourceFile) -> int:
        return sum(rows for rows, _ in file.groups)

    def read(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        fs, path = open_filesystem(part.file.url)
        layout = self.layout
        few = [
            theirs
            for ours, theirs in layout.columns.items()
            if ours in part.file.types and layout.roles[ours] == "label"
        ]
        with pq.ParquetFile(
            path, filesystem=fs, coerce_int96_timestamp_unit="us", read_dictionary=few,
            pre_buffer=not isinstance(fs, pafs.LocalFileSystem),
        ) as file:  # fmt: skip
            groups = list(range(part.start, part.stop))
            for table in bounded(
                file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=part.file.wanted(layout))
            ):
                yield table, 0
