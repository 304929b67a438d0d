"""The allowed types of columns in typed files, checked against the schema before any work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

from p5dist.errors import DataError

Role = Literal["id", "time", "iso", "number", "label", "labels", "vector"]
"""The use of a column. iso: a time written as text, so that numbers are no times."""

Kind = Literal[
    "integer", "float", "decimal", "text", "uuid", "time", "bool", "list", "null", "other"
]
"""The kind of the values of a column, of any width."""

_NUMBERS: tuple[Kind, ...] = ("integer", "float", "decimal")
_LABELS: tuple[Kind, ...] = (*_NUMBERS, "text", "uuid", "bool")
_ALLOWED: dict[Role, tuple[Kind, ...]] = {
    "id": (*_NUMBERS, "text", "uuid"),
    "time": (*_NUMBERS, "text", "time"),
    "iso": ("text", "time"),
    "number": (*_NUMBERS, "text"),
    "label": _LABELS,
    "labels": (*_LABELS, "list"),
    "vector": ("list",),
}
_NOUNS: dict[Role, str] = {
    "id": "an id",
    "time": "a time",
    "iso": "a time of timestamp_unit 'iso'",
    "number": "a number",
    "label": "a category",
    "labels": "a category or several",
    "vector": "a vector",
}
_WORDS: dict[Kind, str] = {
    "integer": "integers",
    "float": "floats",
    "decimal": "decimals",
    "text": "text",
    "uuid": "UUIDs",
    "time": "timestamps or dates",
    "bool": "booleans",
    "list": "lists of these",
}


def kind_of(type_: pa.DataType) -> Kind:
    """The kind of an Arrow type; a dictionary has the kind of its values. Binary is UTF-8 text."""
    t, type_ = pa.types, plain(type_)
    tests: dict[Kind, bool] = {
        "uuid": type_ == pa.binary(16) or isinstance(type_, pa.UuidType),
        "integer": t.is_integer(type_),
        "float": t.is_floating(type_),
        "decimal": t.is_decimal(type_),
        "text": any(
            test(type_)
            for test in (
                t.is_string, t.is_large_string, t.is_string_view,
                t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary,
            )
        ),
        "time": t.is_timestamp(type_) or t.is_date(type_),
        "bool": t.is_boolean(type_),
        "list": (t.is_list(type_) or t.is_large_list(type_) or t.is_fixed_size_list(type_))
        and kind_of(type_.value_type) in (*_LABELS, "list"),
        "null": t.is_null(type_),
    }  # fmt: skip
    return next((kind for kind, true in tests.items() if true), "other")


def check_type(type_: pa.DataType, role: Role, column: str, url: str, knob: str) -> None:
    """Raises DataError if a column of type ``type_`` cannot have the role ``role``."""
    allowed = _ALLOWED[role]
    known = kind_of(type_) in (*allowed, "null")
    if known and role == "vector" and kind_of(type_) == "list":
        known = kind_of(plain(type_).value_type) in _NUMBERS
    if not known:
        words = [_WORDS[kind] for kind in allowed]
        raise DataError(
            f"column '{column}' cannot be {_NOUNS[role]}", where=url, value=str(type_),
            rule="one of: " + ", ".join(words) if role != "vector" else "lists of numbers",
            fix=f"correct {knob}, or convert the column",
        )  # fmt: skip


def check_same(types: Iterable[tuple[str, pa.DataType]], column: str, knob: str) -> None:
    """Raises DataError unless the types of a column in several files hold the same kind of value.

    Numbers of any width go together, text in any encoding, times of any unit.

    Args:
        types: (file, type of the column in it).
        column: its name.
        knob: key of the job file that names it.
    """
    first: tuple[str, pa.DataType] | None = None
    for url, type_ in types:
        kind = kind_of(type_)
        if kind == "null":
            continue
        if first is None:
            first = url, type_
        known = kind_of(first[1])
        if kind != known and not (kind in _NUMBERS and known in _NUMBERS):
            raise DataError(
                f"column '{column}' is {first[1]} in one file and {type_} in another",
                where=f"{first[0]} and {url}",
                rule="a column holds numbers, or text, or times in all files",
                fix=f"convert one of them, or correct {knob}",
            )


def id_type(types: Iterable[pa.DataType]) -> pa.DataType:
    """int64 if an id is an integer that fits into it in all files, else string."""
    found = [plain(type_) for type_ in types if not pa.types.is_null(type_)]
    whole = [pa.types.is_integer(type_) and type_ != pa.uint64() for type_ in found]
    return pa.int64() if found and all(whole) else pa.string()


def plain(type_: pa.DataType) -> pa.DataType:
    """The type of a dictionary's values; any other type itself."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_
