"""Raw files of every format → rows of text, value by value in plain Python: slow, and shares no
code with p5dist."""

from __future__ import annotations

import bz2
import gzip
import json
import math
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from p5dist.config.raw_files import Source
from tests.prepare.reference import Row

OURS = ("user", "item", "timestamp", "rating", "event")
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def read(path: Path, source: Source) -> tuple[list[Row], int]:
    """Rows under our names, and the number of malformed records."""
    columns = {ours: name for ours in OURS if (name := getattr(source.columns, ours))}
    if source.format == "parquet":
        table = pq.read_table(path, coerce_int96_timestamp_unit="us")
        cells = [table[name].to_pylist() for name in columns.values()]
        rows = [
            dict(zip(columns, map(plain(source), row), strict=True))
            for row in zip(*cells, strict=True)
        ]
        return rows, 0
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".bz2":
        data = bz2.decompress(data)
    text = data.decode(source.encoding).removeprefix("\ufeff")
    if source.format == "sequences":
        return sequences(text)
    if source.format == "jsonl":
        return json_lines(text, columns, source)
    default = (",", '"') if source.format == "csv" else ("\t", "")
    quote = default[1] if source.quote is None else source.quote
    return delimited(text, columns, source.delimiter or default[0], quote, source.names)


def plain(source: Source) -> Any:
    """A value of a typed column → text."""

    def text(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, (datetime, date)):
            return time_text(value, source.timestamp_unit)
        if isinstance(value, float):
            if math.isnan(value):
                return "nan"
            return str(int(value)) if value.is_integer() else repr(value)
        if isinstance(value, Decimal):
            return str(int(value)) if value == int(value) else f"{value.normalize():f}"
        return str(value)

    return text


def time_text(value: Any, unit: str) -> str:
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    if unit == "iso":
        return str(value.astimezone(timezone.utc).isoformat())
    micros = (value - EPOCH) // timedelta(microseconds=1)
    return f"{Decimal(micros).scaleb({'s': -6, 'ms': -3, 'us': 0, 'ns': 3}[unit]):f}"


def sequences(text: str) -> tuple[list[Row], int]:
    lines = [line.split() for line in text.split("\n") if line.split()]
    rows = [{"user": user, "item": item} for user, *items in lines for item in items]
    return rows, sum(len(line) < 2 for line in lines)


def json_lines(text: str, columns: dict[str, str], source: Source) -> tuple[list[Row], int]:
    rows: list[Row] = []
    malformed = 0
    for line in text.split("\n"):
        if not line.strip(" \t\r"):
            continue
        try:
            found = json.loads(line, parse_float=Decimal)
            values = [found.get(name) for name in columns.values()]
            good = not any(isinstance(value, (list, dict)) for value in values)
        except (ValueError, AttributeError):
            good = False
        if not good:
            malformed += 1
            continue
        rows.append({ours: json_text(v) for ours, v in zip(columns, values, strict=True)})
    return rows, malformed


def json_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        return str(int(value)) if value == int(value) else f"{value.normalize():f}"
    return "" if value is None else str(value)


def delimited(
    text: str, columns: dict[str, str], mark: str, quote: str, names: tuple[str, ...] | None
) -> tuple[list[Row], int]:
    if names is None:
        first, _, text = text.lstrip("\r\n").partition("\n")
        names = tuple(next(records(first, mark, quote, None))[0])
    rows: list[Row] = []
    malformed = 0
    for record, good in records(text, mark, quote, len(names)):
        read = dict(zip(names, record, strict=False))
        row = {ours: read.get(name, "") for ours, name in columns.items()}
        marked = {o: "\ufeff" * (n == names[0]) + n for o, n in columns.items()}
        if not good or row in (columns, marked):
            malformed += 1
        else:
            rows.append(row)
    return rows, malformed


def records(text: str, mark: str, quote: str, size: int | None) -> Iterator[tuple[list[str], bool]]:
    """Every record, and whether it has ``size`` fields that end as they should. A record that does
    not is one line long."""
    at = 0
    while at < len(text):
        line_end = text.find("\n", at) + 1 or len(text)
        line = text[at:line_end]
        found = record(text, at, mark, quote)
        if found is None:
            yield [], False
            at = line_end
            continue
        fields, end = found
        if end > line_end and len(fields) != size:
            yield [], False
            at = line_end
            continue
        if line.strip("\r\n"):
            yield fields, size is None or len(fields) == size
        at = end


def record(text: str, at: int, mark: str, quote: str) -> tuple[list[str], int] | None:
    fields = []
    while True:
        if quote and text[at : at + 1] == quote:
            value, at = "", at + 1
            while True:
                if at >= len(text):
                    return None
                if text[at] == quote and text[at + 1 : at + 2] == quote:
                    value, at = value + quote, at + 2
                elif text[at] == quote:
                    at += 1
                    break
                else:
                    value, at = value + text[at], at + 1
        else:
            end = re.compile(rf"[{re.escape(mark)}\n]|\Z").search(text, at)
            assert end is not None
            value, at = text[at : end.start()], end.start()
            if text[at : at + 1] != mark:
                value = value.removesuffix("\r")
        fields.append(value)
        if at >= len(text):
            return fields, at
        if text[at] == mark:
            at += 1
        elif text[at] == "\n":
            return fields, at + 1
        elif text[at : at + 2] == "\r\n":
            return fields, at + 2
        elif text[at:] == "\r":
            return fields, at + 1
        else:
            return None
