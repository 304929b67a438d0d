"""Text with one record a line: CSV, tab-separated, JSON lines, sequences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from p5dist import columns as c
from p5dist.errors import DataError
from p5dist.prepare.json_lines import first_keys, parse_json_lines
from p5dist.prepare.layout import Layout, SourceFile, Unit, bounded
from p5dist.prepare.values import NULLS
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
    if layout.format == "csv" and unit.whole and (
        unit.file.compressed or unit.file.size > BLOCK_BYTES
    ):  # fmt: skip
        yield from _stream_csv(unit, layout)
        return
    for number, (offset, data) in enumerate(_blocks(unit)):
        if not data.strip(b"\r\n"):
            continue
        try:
            if layout.format == "sequences":
                yield _parse_sequences(data, layout)
            elif layout.format == "jsonl":
                yield _parse_json(data, unit.file, layout)
            else:
                yield _parse_csv(data, unit.file, layout, unit.start == number == 0)
        except (pa.ArrowInvalid, UnicodeDecodeError) as e:
            raise _explain(e, data, offset, unit.file.url) from e


def column_names(url: str, layout: Layout) -> tuple[str, ...]:
    """Names of the columns in a file, from its first bytes; none if the file is empty.

    Raises:
        DataError: the file is of another format.
    """
    fs, path = open_filesystem(url)
    with fs.open_input_stream(path) as stream:
        head = stream.read(_HEAD_BYTES)
    _check_magic(head, url, layout)
    head = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n")
    if not head.strip():
        return ()
    lines, _, rest = head.rpartition(b"\n")
    if layout.format == "jsonl":
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
        there = pacsv.read_csv(
            pa.BufferReader(first + b"\n" + first + b"\n"), parse_options=_parse_options(layout)
        )
    except pa.ArrowInvalid as e:
        raise _explain(e, first, 0, url) from e
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


def _blocks(unit: Unit) -> Iterator[tuple[int, bytes]]:
    """Whole lines with the place of the first byte (of the decompressed file)."""
    if not unit.whole:
        data, offset = _read_range(unit), unit.start
        if offset == 0 and data.startswith(_BYTE_ORDER_MARK):
            data, offset = data.removeprefix(_BYTE_ORDER_MARK), 3
        yield offset, data
        return
    fs, path = open_filesystem(unit.file.url)
    with fs.open_input_stream(path) as stream:
        offset, rest = 0, b""
        while more := bytes(stream.read(BLOCK_BYTES)):
            if offset == 0 and not rest and more.startswith(_BYTE_ORDER_MARK):
                more, offset = more.removeprefix(_BYTE_ORDER_MARK), 3
            lines, end, last = more.rpartition(b"\n")
            if not end:
                rest += more
                continue
            data = rest + lines + end
            yield offset, data
            offset, rest = offset + len(data), last
        if rest:
            yield offset, rest


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


def _parse_csv(data: bytes, file: SourceFile, layout: Layout, first: bool) -> tuple[pa.Table, int]:
    """Times as integers if all of them are; else, as the other columns, as text."""
    # What pyarrow takes for an integer beyond plain digits is hexadecimal.
    typed = layout.time_unit != "iso" and b"0x" not in data and b"0X" not in data
    if typed and c.TIMESTAMP in layout.columns:
        try:
            table, malformed = _read_csv(data, file, layout, first, pa.int64())
            if not table[layout.columns[c.TIMESTAMP]].null_count:
                return table, malformed
        except pa.ArrowInvalid:
            pass
    return _read_csv(data, file, layout, first, pa.string())


def _read_csv(
    data: bytes, file: SourceFile, layout: Layout, first: bool, time: pa.DataType
) -> tuple[pa.Table, int]:
    malformed = _Malformed()
    table = pacsv.read_csv(
        pa.BufferReader(data),
        read_options=_read_options(file, layout, first),
        parse_options=_parse_options(layout, malformed),
        convert_options=_convert_options(file, layout, time),
    )
    return table, malformed.take()


def _stream_csv(unit: Unit, layout: Layout) -> Iterator[tuple[pa.Table, int]]:
    """A file that cannot be cut, since a quoted value may hold a line end, or is compressed."""
    fs, path = open_filesystem(unit.file.url)
    malformed = _Malformed()
    try:
        with (
            fs.open_input_stream(path) as stream,
            pacsv.open_csv(
                stream,
                read_options=_read_options(unit.file, layout, True),
                parse_options=_parse_options(layout, malformed),
                convert_options=_convert_options(unit.file, layout, pa.string()),
            ) as reader,
        ):
            schema = reader.schema
            for table in bounded(reader):
                yield table, malformed.take()
    except pa.ArrowInvalid as e:
        raise _explain(e, b"", 0, unit.file.url) from e
    if count := malformed.take():
        yield schema.empty_table(), count


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


def _read_options(file: SourceFile, layout: Layout, first: bool) -> pacsv.ReadOptions:
    names = None if first and layout.names is None else list(file.columns)
    return pacsv.ReadOptions(column_names=names, block_size=_CSV_BLOCK_BYTES)


def _parse_options(layout: Layout, handler: object = None) -> pacsv.ParseOptions:
    # Tab-separated text has no quoting (IANA text/tab-separated-values).
    return pacsv.ParseOptions(
        delimiter=_DELIMITERS[layout.format],
        quote_char='"' if layout.format == "csv" else False,
        newlines_in_values=layout.format == "csv",
        invalid_row_handler=handler,
    )


def _convert_options(file: SourceFile, layout: Layout, time: pa.DataType) -> pacsv.ConvertOptions:
    types: dict[str, pa.DataType] = {}
    for ours, theirs in layout.columns.items():
        role = layout.roles[ours]
        type_ = time if role == "time" else _FEW if role in ("label", "number") else pa.string()
        types[theirs] = pa.string() if types.get(theirs, type_) != type_ else type_
    return pacsv.ConvertOptions(
        include_columns=file.wanted(layout), column_types=types, null_values=list(NULLS)
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


def _parse_json(data: bytes, file: SourceFile, layout: Layout) -> tuple[pa.Table, int]:
    data.decode()  # pyarrow takes any bytes for text here
    roles = {theirs: layout.roles[ours] for ours, theirs in layout.columns.items()}
    return parse_json_lines(data, {name: roles[name] for name in file.wanted(layout)})


def _explain(error: Exception, data: bytes, start: int, url: str) -> DataError:
    place, value = url, b""
    try:
        data.decode()
    except UnicodeDecodeError as e:
        place, value = f"{url}, byte {start + e.start}", data[max(e.start - 20, 0) : e.start + 20]
    else:
        if "UTF8" not in str(error):
            return DataError("the file cannot be parsed", where=url, value=str(error))
    return DataError(
        "the file is not UTF-8", where=place, value=value or None,
        fix="convert it, for example with: iconv -f latin1 -t utf-8 FILE > NEW",
    )  # fmt: skip
