"""Text with one record a line: CSV, tab-separated, JSON lines, sequences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from p5dist.data import columns as c
from p5dist.errors import DataError
from p5dist.prepare.json_lines import first_keys, parse_json_lines
from p5dist.prepare.layout import Layout, Unit, bounded
from p5dist.storage import open_filesystem

BLOCK_BYTES = 64 << 20
"""Of text that are parsed at once."""

_HEAD_BYTES = 1 << 20
_CSV_BLOCK_BYTES = 4 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_MAGIC = {b"\x1f\x8b": ".gz", b"(\xb5/\xfd": ".zst", b"BZh": ".bz2"}
_FEW = pa.dictionary(pa.int32(), pa.string())


def read_lines(unit: Unit, layout: Layout) -> Iterator[tuple[pa.Table, int]]:
    """Tables under the names in the file, and malformed lines: another number of fields than
    columns, no JSON object, or a user without items."""
    try:
        if layout.format in _DELIMITERS:
            yield from _read_csv(unit, layout)
            return
        for number, data in enumerate(_blocks(unit)):
            if unit.start == number == 0:
                data = data.removeprefix(_BYTE_ORDER_MARK)
            if not data.lstrip(b"\r\n"):
                continue
            data.decode()  # what follows takes any bytes for text
            if layout.format == "sequences":
                yield _parse_sequences(data, layout)
            else:
                roles = {theirs: layout.roles[ours] for ours, theirs in layout.columns.items()}
                yield parse_json_lines(data, {n: roles[n] for n in unit.file.wanted(layout)})
    except (pa.ArrowInvalid, UnicodeDecodeError) as e:
        raise _explain(e, unit) from e


def column_names(url: str, layout: Layout) -> tuple[str, ...]:
    """Names of the columns in a file, from its first bytes; none if the file is empty.

    Raises:
        DataError: the file is of another format, or not UTF-8.
    """
    fs, path = open_filesystem(url)
    with fs.open_input_stream(path) as stream:
        head = stream.read(_HEAD_BYTES)
    _check_magic(head, url, layout)
    size = len(head)
    head = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n")
    if not head.strip():
        return ()
    lines, _, rest = head.rpartition(b"\n")
    if layout.format == "jsonl":
        try:
            lines.decode()
        except UnicodeDecodeError as e:
            raise _not_utf8(lines, e, url, size - len(head)) from e
        return first_keys(lines or rest, set(layout.columns.values()), url, layout.section)
    if layout.format == "sequences":
        if not any(len(line.split()) > 1 for line in (lines or rest).split(b"\n")):
            raise DataError(
                "no line has a user and an item", where=url, value=head[:200],
                rule="user item item …, separated by blanks",
                fix=f"correct {layout.section}.format",
            )  # fmt: skip
        return tuple(layout.columns.values())
    return _header(head.split(b"\n", 1)[0].rstrip(b"\r"), url, layout)


def _header(first: bytes, url: str, layout: Layout) -> tuple[str, ...]:
    try:
        first.decode()
    except UnicodeDecodeError as e:
        raise _not_utf8(first, e, url) from e
    there = pacsv.read_csv(
        pa.BufferReader(first + b"\n" + first + b"\n"), parse_options=_parse_options(layout)
    )
    if layout.names is None:
        return tuple(there.column_names)
    if there.num_columns != len(layout.names):
        raise DataError(
            f"the first line has {there.num_columns} fields for {len(layout.names)} names",
            where=url, value=first.decode(errors="replace"),
            fix=f"name every column in {layout.section}.names",
        )  # fmt: skip
    return layout.names


def _check_magic(head: bytes, url: str, layout: Layout) -> None:
    if head.startswith(b"PAR1"):
        raise DataError(
            f"the file is Parquet, not {layout.format}", where=url,
            fix=f"set {layout.section}.format: parquet",
        )  # fmt: skip
    for magic, suffix in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(
                "the file is compressed, but its name does not say so", where=url,
                fix=f"rename it so that it ends in {suffix}",
            )  # fmt: skip


def _blocks(unit: Unit) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES of them."""
    if not unit.whole:
        yield _read_range(unit)
        return
    fs, path = open_filesystem(unit.file.url)
    with fs.open_input_stream(path) as stream:
        rest = bytes(stream.read(BLOCK_BYTES))
        while more := bytes(stream.read(BLOCK_BYTES)):
            lines, end, last = rest.rpartition(b"\n")
            if end:
                yield lines + end
            rest = last + more
        yield rest


def _read_range(unit: Unit) -> bytes:
    """The lines that start in the unit's bytes."""
    fs, path = open_filesystem(unit.file.url)
    with fs.open_input_file(path) as f:
        first = max(unit.start - 1, 0)
        f.seek(first)
        data = bytes(f.read(unit.stop - first))
        while data and not data.endswith(b"\n") and (more := bytes(f.read(1 << 16))):
            line, end, _ = more.partition(b"\n")
            data += line + end
    if unit.start:
        # The byte before the unit ends the line that the previous unit reads.
        data = data.partition(b"\n")[2]
    return data


def _read_csv(unit: Unit, layout: Layout) -> Iterator[tuple[pa.Table, int]]:
    """Text, since typed columns were not faster; as dictionaries where few values are expected."""
    header = unit.start == 0 and layout.names is None
    malformed = _Malformed()
    with _open(unit) as stream, pacsv.open_csv(
        stream,
        read_options=pacsv.ReadOptions(
            column_names=None if header else list(unit.file.columns), block_size=_CSV_BLOCK_BYTES
        ),
        parse_options=_parse_options(layout, malformed),
        convert_options=pacsv.ConvertOptions(
            include_columns=unit.file.wanted(layout),
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


def _open(unit: Unit) -> pa.NativeFile:
    if not unit.whole:
        # pyarrow takes data without any line for a mistake.
        return pa.BufferReader(_read_range(unit).lstrip(b"\r\n") or b"\n")
    fs, path = open_filesystem(unit.file.url)
    return fs.open_input_stream(path)


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


def _parse_options(layout: Layout, handler: object = None) -> pacsv.ParseOptions:
    # Tab-separated text has no quoting (IANA text/tab-separated-values).
    return pacsv.ParseOptions(
        delimiter=_DELIMITERS[layout.format],
        quote_char='"' if layout.format == "csv" else False,
        newlines_in_values=layout.format == "csv",
        invalid_row_handler=handler,
    )


def _parse_sequences(data: bytes, layout: Layout) -> tuple[pa.Table, int]:
    data.decode()
    text = pa.array([data], pa.large_binary()).cast(pa.large_string())
    lines = pc.ascii_trim_whitespace(pc.list_flatten(pc.split_pattern(text, "\n")))
    lines = lines.filter(pc.not_equal(lines, ""))
    words = pc.ascii_split_whitespace(lines)
    length = np.asarray(pc.list_value_length(words)).astype(np.int64)
    flat, first = pc.list_flatten(words), np.cumsum(length) - length
    is_item = np.ones(len(flat), np.bool_)
    is_item[first] = False
    user = flat.take(pa.array(np.repeat(first, length - 1)))
    columns = [user, flat.filter(pa.array(is_item))]
    names = [layout.columns[c.USER], layout.columns[c.ITEM]]
    return pa.table([column.cast(pa.string()) for column in columns], names), int(
        (length < 2).sum()
    )


def _explain(error: Exception, unit: Unit) -> DataError:
    place = unit.start
    for data in _blocks(unit):
        try:
            data.decode()
        except UnicodeDecodeError as e:
            return _not_utf8(data, e, unit.file.url, place)
        place += len(data)
    return DataError("the file cannot be parsed", where=unit.file.url, value=str(error))


def _not_utf8(data: bytes, error: UnicodeDecodeError, url: str, place: int = 0) -> DataError:
    return DataError(
        "the file is not UTF-8", where=f"{url}, byte {place + error.start}",
        value=data[max(error.start - 20, 0) : error.start + 20],
        fix="convert it, for example with: iconv -f latin1 -t utf-8 FILE > NEW",
    )  # fmt: skip
