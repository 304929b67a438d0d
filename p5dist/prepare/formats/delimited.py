"""CSV and tab-separated text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from p5dist.errors import DataError
from p5dist.prepare.formats.lines import BYTE_ORDER_MARK, TextFormat
from p5dist.prepare.formats.quotes import Quotes
from p5dist.prepare.layout import FileRange, Layout, SourceFile, bounded
from p5dist.storage import open_filesystem

_PARSED_BYTES = 4 << 20
_SCANNED_BYTES = 1 << 22
_FEW = pa.dictionary(pa.int32(), pa.string())


class Delimited(TextFormat):
    """Fields between delimiters. A line is malformed if it has another number of fields than
    columns, a quoted value that does not end (see :mod:`.quotes`), or the names of the columns once
    more."""

    is_delimited = True
    delimiter: ClassVar[str]
    """Where the job file names none."""
    quoted: ClassVar[bool]
    """Whether a value in double quotes may hold delimiters and line ends, where the job file names
    no quote."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._delimiter = layout.delimiter or self.delimiter
        self._quote = ('"' if self.quoted else "") if layout.quote is None else layout.quote

    def columns_of_head(self, head: bytes, url: str, position: int) -> tuple[str, ...]:
        first = head.split(b"\n", 1)[0].rstrip(b"\r")
        try:
            first.decode()
        except UnicodeDecodeError as e:
            raise self.not_utf8(first, e, url, position) from e
        if self._quote and (
            Quotes(self._delimiter, self._quote, 0).check(first + b"\n", last=True).malformed
        ):
            raise DataError(
                "the first line has a quote that does not end", where=url,
                value=first.decode(errors="replace"),
                fix=f"correct the line, or set {self.layout.section}.quote to none",
            )  # fmt: skip
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
        return [0, file.size] if self._quote and len(edges) > 2 and self._has_quote(file) else edges

    def tables(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        """Text, since typed columns were not faster; as dictionaries where few values are
        expected."""
        header = part.start == 0 and self.layout.names is None
        for data, over_lines, malformed in self._lines(part):
            if header:
                data = data.lstrip(b"\r\n").partition(b"\n")[2]
                header = False
            skipped = _Skipped(self.note_malformed)
            for table in self._parsed(data, part.file, over_lines, skipped):
                records, repeated = self._without_headers(table, part.file)
                yield records, repeated + skipped.take() + malformed
                malformed = 0
            if skipped.count or malformed:
                yield self._nothing(part.file), skipped.take() + malformed

    def _lines(self, part: FileRange) -> Iterator[tuple[bytes, bool, int]]:
        """Blocks of lines whose quoted values end, whether values have line ends, and the number of
        lines left out."""
        if not self._quote:
            for data in self.blocks(part):
                yield data, False, 0
            return
        quotes, rest = Quotes(self._delimiter, self._quote, len(part.file.columns)), b""
        for data in self.blocks(part):
            if not rest and self._quote.encode() not in data:
                yield data, False, 0
                continue
            checked = quotes.check(rest + data, last=False)
            rest = checked.rest
            yield checked.data, checked.over_lines, self._count(checked.malformed)
        if rest:
            checked = quotes.check(rest, last=True)
            yield checked.data, checked.over_lines, self._count(checked.malformed)

    def _count(self, malformed: list[bytes]) -> int:
        for line in malformed[:1]:
            self.note_malformed(line.decode(errors="replace").rstrip("\r\n"))
        return len(malformed)

    def _parsed(
        self, data: bytes, file: SourceFile, over_lines: bool, skipped: _Skipped
    ) -> Iterator[pa.Table]:
        if not data.lstrip(b"\r\n"):
            return  # pyarrow takes data without any line for a mistake
        roles, columns = self.layout.roles, self.layout.columns
        with pacsv.open_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(
                column_names=list(file.columns), block_size=_PARSED_BYTES
            ),
            parse_options=self._parse_options(skipped, over_lines),
            convert_options=pacsv.ConvertOptions(
                include_columns=file.wanted(self.layout),
                column_types={
                    theirs: _FEW if roles[ours] in ("label", "number") else pa.string()
                    for ours, theirs in columns.items()
                },
            ),
        ) as reader:  # fmt: skip
            yield from bounded(reader)

    def _without_headers(self, table: pa.Table, file: SourceFile) -> tuple[pa.Table, int]:
        """The table without lines that repeat the names of the columns, as files that were put
        together have them; and their number."""
        repeated = None
        for name in table.column_names:
            same = pc.equal(table[name], name)
            if name == file.columns[0]:
                same = pc.or_(same, pc.equal(table[name], BYTE_ORDER_MARK.decode() + name))
            repeated = same if repeated is None else pc.and_(repeated, same)
            if not pc.any(repeated).as_py():
                return table, 0
        self.note_malformed(self._delimiter.join(file.columns))
        return table.filter(pc.invert(repeated)), pc.sum(repeated).as_py()

    def _nothing(self, file: SourceFile) -> pa.Table:
        return pa.table({name: pa.array([], pa.string()) for name in file.wanted(self.layout)})

    def _parse_options(
        self, handler: object = None, over_lines: bool = False
    ) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(
            delimiter=self._delimiter,
            quote_char=self._quote or False,
            newlines_in_values=over_lines,
            invalid_row_handler=handler,
        )

    def _has_quote(self, file: SourceFile) -> bool:
        """Whether a quote is below the first line (a header is never cut)."""
        quote = self._quote.encode()
        fs, path = open_filesystem(file.url)
        with fs.open_input_stream(path) as stream:
            block = stream.read(_SCANNED_BYTES).partition(b"\n")[2]
            while block:
                if quote in block:
                    return True
                block = stream.read(_SCANNED_BYTES)
        return False


class Csv(Delimited):
    """Comma-separated, with quotes."""

    delimiter, quoted = ",", True


class Tsv(Delimited):
    """Tab-separated, without quotes (IANA text/tab-separated-values)."""

    delimiter, quoted = "\t", False


class _Skipped:
    """Skips and counts lines with another number of fields than columns."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.count, self.note = 0, note

    def __call__(self, row: pacsv.InvalidRow) -> str:
        if not self.count:
            self.note(row.text)
        self.count += 1
        return "skip"

    def take(self) -> int:
        count, self.count = self.count, 0
        return count
