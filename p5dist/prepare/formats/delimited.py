"""CSV and tab-separated text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pyarrow as pa
import pyarrow.csv as pacsv

from p5dist.errors import DataError
from p5dist.prepare.formats.lines import TextFormat, not_utf8, read_bytes
from p5dist.prepare.layout import FileRange, SourceFile, bounded
from p5dist.storage import open_filesystem

_BLOCK_BYTES = 4 << 20
_QUOTE_BYTES = 1 << 22
_FEW = pa.dictionary(pa.int32(), pa.string())


class Delimited(TextFormat):
    """Fields between delimiters. A line with another number of fields than columns is malformed."""

    takes_names = True
    delimiter: ClassVar[str]
    quoted: ClassVar[bool]
    """Whether a value in quotes may hold delimiters and line ends."""

    def columns_of_head(self, head: bytes, url: str, position: int) -> tuple[str, ...]:
        first = head.split(b"\n", 1)[0].rstrip(b"\r")
        try:
            first.decode()
        except UnicodeDecodeError as e:
            raise not_utf8(first, e, url) from e
        there = pacsv.read_csv(
            pa.BufferReader(first + b"\n" + first + b"\n"), parse_options=self._parse_options()
        )
        names = self.layout.names
        if names is None:
            return tuple(there.column_names)
        if there.num_columns != len(names):
            raise DataError(
                f"the first line has {there.num_columns} fields for {len(names)} names",
                where=url, value=first.decode(errors="replace"),
                fix=f"name every column in {self.layout.section}.names",
            )  # fmt: skip
        return names

    def edges(self, file: SourceFile, range_bytes: int) -> list[int]:
        """A file with a quote is not cut, since a value in quotes may hold a line end."""
        edges = super().edges(file, range_bytes)
        return [0, file.size] if self.quoted and len(edges) > 2 and _has_quote(file) else edges

    def tables(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        """Text, since typed columns were not faster; as dictionaries where few values are
        expected."""
        layout = self.layout
        header = part.start == 0 and layout.names is None
        malformed = _Malformed()
        with _open(part) as stream, pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(
                column_names=None if header else list(part.file.columns), block_size=_BLOCK_BYTES
            ),
            parse_options=self._parse_options(malformed),
            convert_options=pacsv.ConvertOptions(
                include_columns=part.file.wanted(layout),
                column_types={
                    theirs: _FEW if layout.roles[ours] in ("label", "number") else pa.string()
                    for ours, theirs in layout.columns.items()
                },
            ),
        ) as reader:  # fmt: skip
            schema = reader.schema
            for table in bounded(reader):
                yield table, malformed.take()
        if count := malformed.take():
            yield schema.empty_table(), count

    def _parse_options(self, handler: object = None) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(
            delimiter=self.delimiter,
            quote_char='"' if self.quoted else False,
            newlines_in_values=self.quoted,
            invalid_row_handler=handler,
        )


class Csv(Delimited):
    """Comma-separated, with quotes."""

    delimiter, quoted = ",", True


class Tsv(Delimited):
    """Tab-separated, without quotes (IANA text/tab-separated-values)."""

    delimiter, quoted = "\t", False


class _Malformed:
    """Skips and counts lines with another number of fields than columns."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, row: pacsv.InvalidRow) -> str:
        self.count += 1
        return "skip"

    def take(self) -> int:
        count, self.count = self.count, 0
        return count


def _open(part: FileRange) -> pa.NativeFile:
    if not part.whole:
        # pyarrow takes data without any line for a mistake.
        return pa.BufferReader(read_bytes(part).lstrip(b"\r\n") or b"\n")
    fs, path = open_filesystem(part.file.url)
    return fs.open_input_stream(path)


def _has_quote(file: SourceFile) -> bool:
    """Whether a quote is below the first line (a header is never cut)."""
    fs, path = open_filesystem(file.url)
    with fs.open_input_stream(path) as stream:
        block = stream.read(_QUOTE_BYTES).partition(b"\n")[2]
        while block:
            if b'"' in block:
                return True
            block = stream.read(_QUOTE_BYTES)
    return False
