"""What a raw file is, and how a read unit becomes a table of text columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from p5dist import columns as c
from p5dist.config.prepare import AttributeTable, Format, Source
from p5dist.errors import DataError
from p5dist.prepare.arrays import as_text
from p5dist.storage import open_filesystem

_HEAD_BYTES = 1 << 20
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


@dataclass(frozen=True)
class Layout:
    """How the files of one table are read."""

    format: Format
    names: tuple[str, ...] | None
    columns: Mapping[str, str]
    """Our name → name in the files."""
    knobs: Mapping[str, str]
    """Our name → key of the job file that holds the name in the files."""
    section: str
    """Section of the job file."""
    time_unit: str = "s"

    @classmethod
    def of_log(cls, source: Source) -> Layout:
        named = {
            k: v for k in (c.USER, c.ITEM, c.TIMESTAMP, c.EVENT, c.RATING)
            if (v := getattr(source.columns, k)) is not None
        }  # fmt: skip
        knobs = {k: f"prepare.source.columns.{k}" for k in named}
        return cls(
            source.format, source.names, named, knobs, "prepare.source", source.timestamp_unit
        )

    @classmethod
    def of_attributes(cls, table: AttributeTable, section: str) -> Layout:
        named, knobs = {c.ID: table.id}, {c.ID: f"{section}.id"}
        if table.title is not None:
            named[c.TITLE], knobs[c.TITLE] = table.title, f"{section}.title"
        for name in table.attributes:
            named[f"attribute.{name}"] = name
            knobs[f"attribute.{name}"] = f"{section}.attributes.{name}"
        return cls(table.format, table.names, named, knobs, section)


@dataclass(frozen=True)
class SourceFile:
    """A file that exists and has the columns that are read."""

    url: str
    size: int
    columns: tuple[str, ...]

    @property
    def compressed(self) -> bool:
        return self.url.endswith(_COMPRESSED)


@dataclass(frozen=True)
class Unit:
    """What one task reads: records that start in bytes ``start … stop`` (Parquet: row groups)."""

    file: SourceFile
    start: int
    stop: int
    test: bool = False
    """The rows are the test part of a given split."""


def read_unit(unit: Unit, layout: Layout) -> tuple[pa.Table, int]:
    """The unit's rows under our names, every value as text, and the number of malformed lines
    (csv, tsv: another number of fields than columns).

    Raises:
        DataError: not UTF-8, or not of the stated format.
    """
    try:
        if layout.format == "parquet":
            table, malformed = _read_parquet(unit, layout), 0
        else:
            table, malformed = _read_lines(unit, layout)
    except OSError as e:
        raise DataError("a file cannot be read", where=unit.file.url, value=str(e)) from e
    found = {
        ours: as_text(table[theirs], layout.time_unit)
        if theirs in table.column_names
        else pa.chunked_array([pa.nulls(len(table), pa.string())])
        for ours, theirs in layout.columns.items()
    }
    return pa.table(found), malformed


def column_names(file: SourceFile, layout: Layout) -> list[str]:
    """Names of the columns in the file, from its first bytes (jsonl: keys of the first MB)."""
    fs, path = open_filesystem(file.url)
    if layout.format == "parquet":
        return list(pq.read_schema(path, filesystem=fs).names)
    with fs.open_input_stream(path) as stream:
        head = stream.read(_HEAD_BYTES)
    lines, _, rest = head.rpartition(b"\n")
    if layout.format == "jsonl":
        try:
            return list(_parse_json(lines or rest).column_names)
        except (pa.ArrowInvalid, UnicodeDecodeError) as e:
            raise _explain(e, head, 0, file.url) from e
    first = head.lstrip(b"\r\n").split(b"\n", 1)[0].rstrip(b"\r")
    if not first:
        return list(layout.names or ())
    try:
        there = pacsv.read_csv(
            pa.BufferReader(first + b"\n" + first + b"\n"), parse_options=_parse_options(layout)
        )
    except pa.ArrowInvalid as e:
        raise _explain(e, first, 0, file.url) from e
    if layout.names is None:
        return list(there.column_names)
    if there.num_columns != len(layout.names):
        raise DataError(
            f"the first line has {there.num_columns} fields for {len(layout.names)} names",
            where=file.url, value=first.decode(errors="replace"),
            fix=f"name every column in {layout.section}.names",
        )  # fmt: skip
    return list(layout.names)


def _read_parquet(unit: Unit, layout: Layout) -> pa.Table:
    fs, path = open_filesystem(unit.file.url)
    with pq.ParquetFile(path, filesystem=fs) as file:
        wanted = list(dict.fromkeys(layout.columns.values()))
        return file.read_row_groups(list(range(unit.start, unit.stop)), columns=wanted)


def _read_lines(unit: Unit, layout: Layout) -> tuple[pa.Table, int]:
    data = _read_bytes(unit)
    try:
        if layout.format == "jsonl":
            return _parse_json(data), 0
        return _parse_csv(data, unit, layout)
    except (pa.ArrowInvalid, UnicodeDecodeError) as e:
        raise _explain(e, data, unit.start, unit.file.url) from e


def _read_bytes(unit: Unit) -> bytes:
    """The lines that start in the unit's bytes."""
    fs, path = open_filesystem(unit.file.url)
    if unit.start == 0 and unit.stop == unit.file.size:
        with fs.open_input_stream(path) as stream:
            return bytes(stream.read())
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


def _parse_csv(data: bytes, unit: Unit, layout: Layout) -> tuple[pa.Table, int]:
    malformed = 0

    def skip(row: pacsv.InvalidRow) -> str:
        nonlocal malformed
        malformed += 1
        return "skip"

    wanted = list(dict.fromkeys(layout.columns.values()))
    header = int(layout.names is None and unit.start == 0)
    if not data.strip(b"\r\n") or (header and b"\n" not in data.strip(b"\r\n")):
        return pa.table({name: pa.array([], pa.string()) for name in wanted}), 0
    table = pacsv.read_csv(
        pa.BufferReader(data),
        read_options=pacsv.ReadOptions(column_names=list(unit.file.columns), skip_rows=header),
        parse_options=_parse_options(layout, skip),
        convert_options=pacsv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
        ),
    )
    return table, malformed


def _parse_options(layout: Layout, handler: object = None) -> pacsv.ParseOptions:
    # Tab-separated text has no quoting (IANA text/tab-separated-values).
    return pacsv.ParseOptions(
        delimiter=_DELIMITERS[layout.format],
        quote_char='"' if layout.format == "csv" else False,
        newlines_in_values=layout.format == "csv",
        invalid_row_handler=handler,
    )


def _parse_json(data: bytes) -> pa.Table:
    if not data.strip():
        return pa.table({})
    data.decode()  # pyarrow takes any bytes for text here
    options = pajson.ReadOptions(block_size=min(len(data), 16 << 20))
    table = pajson.read_json(pa.BufferReader(data), read_options=options)
    # Text that looks like a date is read as one; an id must stay as it is written.
    dates = [f.with_type(pa.string()) for f in table.schema if pa.types.is_timestamp(f.type)]
    if dates:
        parse = pajson.ParseOptions(explicit_schema=pa.schema(dates))
        table = pajson.read_json(pa.BufferReader(data), read_options=options, parse_options=parse)
    return table


def _explain(error: Exception, data: bytes, start: int, url: str) -> DataError:
    try:
        data.decode()
    except UnicodeDecodeError as e:
        return DataError(
            "the file is not UTF-8", where=f"{url}, byte {start + e.start}",
            value=data[max(e.start - 20, 0) : e.start + 20],
            fix="convert it, for example with: iconv -f latin1 -t utf-8 FILE > NEW",
        )  # fmt: skip
    return DataError("the file cannot be parsed", where=url, value=str(error))
