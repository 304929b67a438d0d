"""JSON lines: fast where the lines agree on their types, exact where they do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa
import pyarrow.json as pajson

from p5dist.errors import DataError
from p5dist.prepare.column_types import Role
from p5dist.prepare.formats.lines import LineFormat, whole_lines
from p5dist.prepare.layout import SourceFile
from p5dist.prepare.values import as_text

_PIECE_BYTES = 1 << 20
_BLOCK_BYTES = 16 << 20
_SAMPLES = 64
_DIGITS = 40
_BLANK = b" \t\r\n"


class JsonLines(LineFormat):
    """A JSON object a line; a key that an object lacks is null. A line is malformed if it is no
    object, or has a value that the column cannot have (see :func:`parse_json_lines`)."""

    is_sparse = True

    def columns_of_head(self, head: bytes, url: str, position: int) -> tuple[str, ...]:
        lines = head.rpartition(b"\n")[0]
        try:
            lines.decode()
        except UnicodeDecodeError as e:
            raise self.not_utf8(lines, e, url, position) from e
        head = whole_lines(head)
        keys = first_keys(head, set(self.layout.columns.values()))
        if keys is None:
            raise DataError(
                "not a readable jsonl file: none of the first lines is a JSON object", where=url,
                value=head[:200].decode(errors="replace"),
                fix=f"correct {self.layout.section}.format or the file",
            )  # fmt: skip
        return keys or tuple(self.layout.columns.values())  # objects without keys are rows too

    def parse(self, data: bytes, file: SourceFile) -> tuple[pa.Table, int]:
        roles = {theirs: self.layout.roles[ours] for ours, theirs in self.layout.columns.items()}
        columns = {name: roles[name] for name in file.wanted(self.layout)}
        return parse_json_lines(data, columns, self.note_malformed)


class _Whole(str):
    """An integer as it is written."""


class _Float(str):
    """Another number as it is written."""


def parse_json_lines(
    data: bytes, columns: Mapping[str, Role], note: Callable[[str], None] = lambda line: None
) -> tuple[pa.Table, int]:
    """The columns, and the number of lines that are no JSON object or have a value of a kind that
    the column cannot have (an object, or a list where one value belongs).

    pyarrow reads a whole block or nothing, and a column has one type. A block that pyarrow refuses
    is therefore read in pieces, and a piece that pyarrow refuses line by line; the columns are then
    text.

    Args:
        data: whole lines, UTF-8.
        columns: key of the objects → role of the column; a key may be missing.
        note: is told the text of malformed lines.
    """
    table = _read_block(data, columns)
    if table is not None:
        return table, 0
    if "labels" in columns.values():  # text or lists: the type must not change between pieces
        return _read_line_by_line(data, columns, note)
    tables, malformed = [], 0
    for piece in _pieces(data):
        table = _read_block(piece, columns)
        if table is None:
            table, bad = _read_line_by_line(piece, columns, note)
            malformed += bad
        tables.append(pa.table({name: as_text(table[name]) for name in columns}))
    return pa.concat_tables(tables), malformed


def first_keys(head: bytes, wanted: set[str]) -> tuple[str, ...] | None:
    """Keys of the first objects, read until all wanted keys are found; None if no line is an
    object."""
    keys: dict[str, None] = {}
    objects = 0
    for line in head.split(b"\n"):
        row = _object(line)
        if row is not None:
            objects += 1
            keys.update(dict.fromkeys(row))
            if wanted <= keys.keys():
                break
    return tuple(keys) if objects else None


def _read_block(data: bytes, columns: Mapping[str, Role]) -> pa.Table | None:
    """None if pyarrow refuses the block, or does not read one object per line."""
    data = data.strip(_BLANK)
    schema = _schema(data, columns)
    if schema is None:
        return None
    try:
        table = pajson.read_json(
            pa.BufferReader(data),
            read_options=pajson.ReadOptions(block_size=min(len(data) + 1, _BLOCK_BYTES)),
            parse_options=pajson.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    # pyarrow also reads several objects in one line, or one in several.
    return table if len(table) == data.count(b"\n") + 1 else None


def _schema(data: bytes, columns: Mapping[str, Role]) -> pa.Schema | None:
    """Types of the columns by some of the lines; None if text is the only one that fits."""
    kinds: dict[str, set[type]] = {name: set() for name in columns}
    for line in _samples(data):
        row = _object(line)
        if row is None:
            return None
        for name, found in kinds.items():
            found.add(type(row.get(name)))
    fields = []
    for name, found in kinds.items():
        kind = _type(found - {type(None)}, columns[name])
        if kind is None:
            return None
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _type(found: set[type], role: Role) -> pa.DataType | None:
    if not found or found == {str}:
        return pa.string()
    if found == {_Whole} and role != "iso":
        return pa.float64() if role == "number" else pa.int64()
    if found == {list} and role == "labels":
        return pa.list_(pa.string())
    if found <= {_Whole, _Float} and role in ("time", "number"):
        return pa.float64()
    return None


def _read_line_by_line(
    data: bytes, columns: Mapping[str, Role], note: Callable[[str], None]
) -> tuple[pa.Table, int]:
    found: dict[str, list[Any]] = {name: [] for name in columns}
    malformed = 0
    for line in data.split(b"\n"):
        if not line.strip(_BLANK):
            continue
        row = _object(line)
        try:
            values = [] if row is None else [_text(row.get(k), role) for k, role in columns.items()]
        except TypeError:
            values = []
        if not values:
            malformed += 1
            note(line.decode().strip())
        for column, value in zip(found.values(), values, strict=bool(values)):
            column.append(value)
    return pa.table({name: _array(values) for name, values in found.items()}), malformed


def _object(line: bytes) -> dict[str, Any] | None:
    """Numbers as they are written; None if the line is no object."""
    try:
        row = json.loads(line, parse_int=_Whole, parse_float=_Float, parse_constant=_Float)
        if b"\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _text(value: Any, role: Role) -> Any:
    """Text, None, or a list of text; lists in lists become one. Raises TypeError for a value that
    the column cannot have."""
    if value is None or type(value) is str:
        return value
    if type(value) is _Whole:
        return "0" if value == "-0" else value
    if type(value) is bool:
        return str(value).lower()
    if type(value) is _Float:
        return _number_text(value)
    if type(value) is list and role == "labels":
        parts = [_text(part, role) for part in value]
        return [one for part in parts for one in (part if type(part) is list else [part])]
    raise TypeError


def _number_text(value: str) -> str:
    """As :func:`.values.as_text` writes a number of a typed column, but exact for any number of
    digits."""
    number = Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > _DIGITS:
        return value
    return f"{number.normalize(Context(len(value))):f}" if number else "0"


def _array(values: list[Any]) -> pa.Array:
    if any(type(value) is list for value in values):
        values = [v if v is None or type(v) is list else [v] for v in values]
        return pa.array(values, pa.list_(pa.string()))
    return pa.array(values, pa.string())


def _samples(data: bytes) -> Iterator[bytes]:
    """Lines from all over the data, the first and the last among them."""
    last = data.rfind(b"\n") + 1
    position = 0
    while position < last:
        end = data.index(b"\n", position)
        yield data[position:end]
        position = max(end + 1, data.find(b"\n", position + len(data) // _SAMPLES) + 1)
    yield data[last:]


def _pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines, about _PIECE_BYTES of them."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start + _PIECE_BYTES) + 1 or len(data)
        yield data[start:end]
        start = end
