"""The common part of text formats: first bytes, ranges of bytes, blocks of lines, errors that name
the byte."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import pyarrow as pa

from p5dist.errors import DataError
from p5dist.prepare.formats.format import SourceFormat
from p5dist.prepare.layout import FileRange, SourceFile
from p5dist.storage import open_filesystem

BLOCK_BYTES = 64 << 20
"""Of text that are parsed at once."""

_HEAD_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAGIC = {b"\x1f\x8b": ".gz", b"(\xb5/\xfd": ".zst", b"BZh": ".bz2"}


class TextFormat(SourceFormat):
    """UTF-8 text whose records end at line ends: a file is cut at any byte, and a range has the
    lines that start in it. Compressed files are never cut."""

    @abstractmethod
    def columns_of_head(self, head: bytes, url: str, position: int) -> tuple[str, ...]:
        """Names of the columns in a file that is not empty.

        Args:
            head: the first bytes from the first line on; the last line may be cut off.
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
        size = len(head)
        head = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n")
        if not head.strip():
            return ()
        return self.columns_of_head(head, url, size - len(head))

    def edges(self, file: SourceFile, range_bytes: int) -> list[int]:
        if file.size <= range_bytes or file.compressed:
            return [0, file.size]
        return [*range(0, file.size, range_bytes), file.size]

    def read(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        try:
            yield from self.tables(part)
        except (pa.ArrowInvalid, UnicodeDecodeError) as e:
            raise _explain(e, part) from e

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
        for number, data in enumerate(_blocks(part)):
            if part.start == number == 0:
                data = data.removeprefix(_BYTE_ORDER_MARK)
            if not data.lstrip(b"\r\n"):
                continue
            data.decode()  # the parser would accept any bytes as text
            yield self.parse(data, part.file)


def whole_lines(head: bytes) -> bytes:
    """First bytes of a file without a last line that is cut off, unless there is no other."""
    lines, _, rest = head.rpartition(b"\n")
    return lines or rest


def read_bytes(part: FileRange) -> bytes:
    """The lines that start in a range."""
    fs, path = open_filesystem(part.file.url)
    with fs.open_input_file(path) as f:
        first = max(part.start - 1, 0)
        f.seek(first)
        data = bytes(f.read(part.stop - first))
        while data and not data.endswith(b"\n") and (more := bytes(f.read(1 << 16))):
            line, end, _ = more.partition(b"\n")
            data += line + end
    if part.start:
        # The byte before the range ends the line that the previous range has.
        data = data.partition(b"\n")[2]
    return data


def not_utf8(data: bytes, error: UnicodeDecodeError, url: str, position: int = 0) -> DataError:
    """The error of a file that is no UTF-8.

    Args:
        data: part of the file.
        error: of decoding ``data``.
        url: the file.
        position: of ``data`` in the file.
    """
    return DataError(
        "the file is not UTF-8", where=f"{url}, byte {position + error.start}",
        value=data[max(error.start - 20, 0) : error.start + 20],
        fix="convert it, for example with: iconv -f latin1 -t utf-8 FILE > NEW",
    )  # fmt: skip


def _blocks(part: FileRange) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES of them."""
    if not part.whole:
        yield read_bytes(part)
        return
    fs, path = open_filesystem(part.file.url)
    with fs.open_input_stream(path) as stream:
        rest = bytes(stream.read(BLOCK_BYTES))
        while more := bytes(stream.read(BLOCK_BYTES)):
            lines, end, last = rest.rpartition(b"\n")
            if end:
                yield lines + end
            rest = last + more
        yield rest


def _explain(error: Exception, part: FileRange) -> DataError:
    position = part.start
    for data in _blocks(part):
        try:
            data.decode()
        except UnicodeDecodeError as e:
            return not_utf8(data, e, part.file.url, position)
        position += len(data)
    return DataError("the file cannot be parsed", where=part.file.url, value=str(error))
