"""The common part of text formats: first bytes, ranges of bytes, blocks of lines, errors that name
the byte."""

from __future__ import annotations

import codecs
from abc import abstractmethod
from collections.abc import Iterator
from functools import cache

import pyarrow as pa

from p5dist.errors import DataError
from p5dist.prepare.formats.format import SourceFormat
from p5dist.prepare.layout import FileRange, SourceFile
from p5dist.storage import open_filesystem

BLOCK_BYTES = 32 << 20
"""Of text that are parsed at once."""

_HEAD_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAGIC = {b"\x1f\x8b": ".gz", b"(\xb5/\xfd": ".zst", b"BZh": ".bz2"}


class TextFormat(SourceFormat):
    """Text whose records end at line ends: a file is cut at any byte, and a range has the lines
    that start in it. Compressed files, and files in an encoding whose line ends cannot be found
    byte by byte, are never cut.

    Text is read as UTF-8, or in the encoding that the job file names.
    """

    is_text = True

    @abstractmethod
    def columns_of_head(self, head: bytes, url: str, position: int) -> tuple[str, ...]:
        """Names of the columns in a file that is not empty.

        Args:
            head: UTF-8, from the first line on; the last line may be cut off.
            url: the file.
            position: of ``head`` in the file.
        """

    @abstractmethod
    def tables(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        """As :meth:`read`; a UnicodeDecodeError is explained by the caller too."""

    def columns(self, url: str) -> tuple[str, ...]:
        fs, path = open_filesystem(url)
        with fs.open_input_stream(path) as stream:
            head = stream.read(_HEAD_BYTES)
        self._check_magic(head, url)
        encoding = self.layout.encoding
        if not is_utf8(encoding):
            try:  # the last character may be cut off
                head = codecs.getincrementaldecoder(encoding)("replace").decode(head).encode()
            except UnicodeError as e:
                raise self._not_in_encoding(e, url) from e
        size = len(head)
        head = _usual_line_ends(head.removeprefix(BYTE_ORDER_MARK)).lstrip(b"\r\n")
        if not head.strip():
            return ()
        if b"\0" in head.split(b"\n", 1)[0] or head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(
                "the file is not text in this encoding", where=url, value=head[:40],
                rule=f"{self.layout.section}.encoding is {encoding}, in which text has no byte 0",
                fix=f"set {self.layout.section}.encoding, for example to utf-16",
            )  # fmt: skip
        return self.columns_of_head(head, url, size - len(head))

    def edges(self, file: SourceFile, range_bytes: int) -> list[int]:
        whole = file.compressed or not _is_one_byte_a_line_end(self.layout.encoding)
        if file.size <= range_bytes or whole:
            return [0, file.size]
        return [*range(0, file.size, range_bytes), file.size]

    def read(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        try:
            yield from self.tables(part)
        except (pa.ArrowInvalid, UnicodeError) as e:
            raise self._explain(e, part) from e

    def blocks(self, part: FileRange) -> Iterator[bytes]:
        """The text of a range without a byte order mark, in UTF-8 as far as the file is what the
        layout says: whole lines, about BLOCK_BYTES of them.

        Raises:
            UnicodeDecodeError: bytes that the encoding of the layout does not have.
        """
        encoding = self.layout.encoding
        for position, data in _raw_blocks(part, encoding):
            if not part.whole and not is_utf8(encoding):
                data = data.decode(encoding).encode()
            if part.start == position == 0:
                data = data.removeprefix(BYTE_ORDER_MARK)
            if data.lstrip(b"\r\n"):
                yield _usual_line_ends(data)

    def _explain(self, error: Exception, part: FileRange) -> DataError:
        if not is_utf8(self.layout.encoding) and isinstance(error, UnicodeError):
            return self._not_in_encoding(error, part.file.url)
        for position, data in _raw_blocks(part, self.layout.encoding):
            try:
                data.decode()
            except UnicodeDecodeError as e:
                return self.not_utf8(data, e, part.file.url, position)
        return DataError("the file cannot be parsed", where=part.file.url, value=str(error))

    def _not_in_encoding(self, error: UnicodeError, url: str) -> DataError:
        hint = ""
        if "BOM" in str(error):
            hint = f": {self.layout.encoding}-le or {self.layout.encoding}-be"
        return DataError(
            f"the file is not {self.layout.encoding}", where=url, value=str(error),
            fix=f"correct {self.layout.section}.encoding{hint}",
        )  # fmt: skip

    def not_utf8(
        self, data: bytes, error: UnicodeDecodeError, url: str, position: int = 0
    ) -> DataError:
        """The error of a file that is not UTF-8.

        Args:
            data: part of the file.
            error: of decoding ``data``.
            url: the file.
            position: of ``data`` in the file.
        """
        return DataError(
            "the file is not UTF-8", where=f"{url}, byte {position + error.start}",
            value=data[max(error.start - 20, 0) : error.start + 20],
            fix=f"name its encoding, for example {self.layout.section}.encoding: latin-1 (or "
            "cp1252, shift_jis, …)",
        )  # fmt: skip

    def _check_magic(self, head: bytes, url: str) -> None:
        if head.startswith(b"PAR1"):
            raise DataError(
                f"the file is Parquet, not {self.layout.format}", where=url,
                fix=f"set {self.layout.section}.format: parquet",
            )  # fmt: skip
        for magic, suffix in _MAGIC.items():
            if head.startswith(magic):
                raise DataError(
                    "the file is compressed, but its name does not say so", where=url,
                    fix=f"rename it so that it ends in {suffix}",
                )  # fmt: skip


class LineFormat(TextFormat):
    """Text with one record a line. A format of your own needs :meth:`columns_of_head` and
    :meth:`parse`."""

    @abstractmethod
    def parse(self, data: bytes, file: SourceFile) -> tuple[pa.Table, int]:
        """The records of whole lines of a file, and the number of malformed lines.

        Args:
            data: UTF-8, without a byte order mark; blank lines are no records.
        """

    def tables(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        for data in self.blocks(part):
            data.decode()  # the parser would accept any bytes as text
            yield self.parse(data, part.file)


def is_utf8(encoding: str) -> bool:
    """Whether the name stands for UTF-8."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


@cache
def _is_one_byte_a_line_end(encoding: str) -> bool:
    """Whether the byte of a line end is a line end wherever it occurs: in UTF-8, and where every
    byte is one character and ASCII stays ASCII."""
    if is_utf8(encoding):
        return True
    characters = [bytes([byte]).decode(encoding, "replace") for byte in range(256)]
    ascii_stays = characters[:128] == [chr(byte) for byte in range(128)]
    return ascii_stays and bytes(range(128, 256)).decode(encoding, "replace") == "".join(
        characters[128:]
    )


def whole_lines(head: bytes) -> bytes:
    """First bytes of a file without a last line that is cut off, unless there is no other."""
    lines, _, rest = head.rpartition(b"\n")
    return lines or rest


def _usual_line_ends(data: bytes) -> bytes:
    """Lines that end in carriage returns alone, as on old Macintoshes, with the usual line ends."""
    return data if b"\n" in data else data.replace(b"\r", b"\n")


def _read_bytes(part: FileRange) -> tuple[int, bytes]:
    """The lines that start in a range, and where the first one begins."""
    fs, path = open_filesystem(part.file.url)
    with fs.open_input_file(path) as f:
        first = max(part.start - 1, 0)
        f.seek(first)
        data = bytes(f.read(part.stop - first))
        while data and not data.endswith(b"\n") and (more := bytes(f.read(1 << 16))):
            line, end, _ = more.partition(b"\n")
            data += line + end
    if not part.start:
        return 0, data
    # The byte before the range ends the line that the previous range has.
    before, end, data = data.partition(b"\n")
    return first + len(before) + len(end), data


def _raw_blocks(part: FileRange, encoding: str) -> Iterator[tuple[int, bytes]]:
    """Whole lines, about BLOCK_BYTES of them, and the position of each block. The text of a whole
    file that is not UTF-8 becomes UTF-8."""
    if not part.whole:
        yield _read_bytes(part)
        return
    fs, path = open_filesystem(part.file.url)
    position = 0
    with fs.open_input_stream(path) as raw:
        stream = raw if is_utf8(encoding) else pa.transcoding_input_stream(raw, encoding, "utf-8")
        rest = bytes(stream.read(BLOCK_BYTES))
        while more := bytes(stream.read(BLOCK_BYTES)):
            lines, end, last = rest.rpartition(b"\n")
            if end:
                yield position, lines + end
                position += len(lines) + 1
            rest = last + more
        yield position, rest
