"""Values of raw columns, typed or text: nulls, numbers, categories, ids (times: :mod:`.times`).

Every function takes any column that :mod:`.column_types` lets through, and the same values give
the same result whether they are typed or text. Masks are None where nothing is to be marked, so
that clean typed columns cost next to nothing.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.data.jagged import Array, Bools
from p5dist.errors import DataError
from p5dist.prepare.arrays import one_array
from p5dist.prepare.column_types import kind_of, plain

NULLS = ("", "NULL", "null", "NaN", "nan", r"\N")
"""Text that stands for no value."""

_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_EXACT = {pa.float16(): 2.0**11, pa.float32(): 2.0**24, pa.float64(): 2.0**53}
"""From these numbers on, a float also stands for whole numbers beside it."""


@cache
def _nulls() -> pa.Array:
    """NULLS; made when it is used, since pyarrow imports pandas to make an array."""
    return pa.array(NULLS)


def is_null(column: pa.ChunkedArray | pa.Array) -> Bools | None:
    """[n] whether there is no value: null, or text that stands for none."""
    if kind_of(column.type) == "text":
        null = np.asarray(pc.or_(pc.is_null(column), pc.is_in(column, value_set=_nulls())))
    elif column.null_count:
        null = np.asarray(pc.is_null(column))
    else:
        return None
    return null if null.any() else None


def coded(column: pa.ChunkedArray) -> tuple[pa.StringArray, Array]:
    """Distinct values as text ("" for none), and [n] the index of each row's value."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    values = as_text(array.dictionary)
    null = is_null(values)
    if null is not None:
        values = pc.if_else(pa.array(null), "", values)
    if array.indices.null_count:
        values = pa.concat_arrays([values, pa.array([""])])
    code = array.indices.fill_null(len(values) - 1).to_numpy()
    distinct = values.dictionary_encode()  # several texts stand for no value
    return distinct.dictionary, np.asarray(distinct.indices)[code]


def ratings(column: pa.ChunkedArray) -> tuple[Array, Bools | None]:
    """[n] ratings (NaN where there is none; float32 if the column is so, else float64) and [n]
    whether the value is no number, or one beyond float32."""
    if kind_of(column.type) != "text" and not pa.types.is_dictionary(column.type):
        return _finite(floats(column))
    values, code = coded(column)  # few values, many rows
    number, bad = numbers(pc.utf8_trim_whitespace(values))
    number, infinite = _finite(np.where(bad, np.nan, number))
    bad &= ~np.asarray(pc.equal(values, ""))
    if infinite is not None:
        bad |= infinite
    return number[code], bad[code] if bad.any() else None


def check_exact(column: pa.ChunkedArray, name: str, url: str, noun: str) -> None:
    """Raise DataError if floats of the column are so large that each stands for several whole
    numbers."""
    type_ = plain(column.type)
    if kind_of(type_) != "float" or (noun == "times" and type_ == pa.float64()):
        return  # of a time in float64, microseconds are exact enough in every unit
    limit = _EXACT[type_]
    values = column.cast(type_)
    size = pc.abs(values.cast(pa.float64()))
    large = values.filter(pc.fill_null(pc.greater_equal(size, limit), False))
    if len(large):
        raise DataError(
            f"column '{name}' has {noun} that {type_} cannot hold exactly", where=url,
            value=repr(large[0].as_py()),
            rule=f"from {limit:.0f} on, one {type_} stands for several whole numbers",
            fix="write the column as integers or text where the file is made",
        )  # fmt: skip


def numbers(text: pa.Array | pa.ChunkedArray) -> tuple[Array, Bools]:
    """[n] numbers (float64; 0 where bad) and [n] whether the value is no decimal number."""
    good = pc.fill_null(pc.match_substring_regex(text, _NUMBER), False)
    number = np.asarray(pc.if_else(good, text, "0").cast(pa.float64()))
    return number, ~np.asarray(good)


def floats(column: pa.Array | pa.ChunkedArray) -> Array:
    """[n] the column (float32 stays so), NaN for null."""
    if column.type != pa.float32():
        column = column.cast(pa.float64(), safe=False)
    if column.null_count:
        column = column.fill_null(float("nan"))
    return np.asarray(column)


def is_numeric(type_: pa.DataType) -> bool:
    """Whether values are numbers as they are (not a dictionary, not text)."""
    numeric = kind_of(type_) in ("integer", "float", "decimal")
    return numeric and not pa.types.is_dictionary(type_)


def as_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Any column as text; lists stay lists of text.

    Equal numbers of any type become equal text: 12, 12.0 and the decimal 12.00 become ``12`` (ids
    become floats where a column has gaps). UUIDs get their canonical form, times ISO 8601.

    Raises:
        pa.ArrowInvalid: binary that is not UTF-8.
    """
    if pa.types.is_dictionary(column.type):
        return as_text(column.cast(column.type.value_type))
    kind = kind_of(column.type)
    if kind == "list":
        return column.cast(pa.list_(pa.string()))
    if kind == "uuid":
        return _uuid_text(column)
    if kind == "decimal":
        return _decimal_text(column)
    if kind == "float":
        value = column.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(value), value), pc.less(pc.abs(value), 2.0**53))
        number = pc.if_else(pc.fill_null(whole, False), value, 0.0).cast(pa.int64())
        return pc.if_else(whole, number.cast(pa.string()), _without_exponent(column))
    if pa.types.is_fixed_size_binary(column.type):
        column = column.cast(pa.binary())
    return column.cast(pa.string())


def _uuid_text(column: pa.Array | pa.ChunkedArray) -> pa.StringArray:
    array = column.cast(pa.binary(16))
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    n = len(array)
    if not n:
        return pa.array([], pa.string())
    data = np.frombuffer(array.buffers()[1], np.uint8)[16 * array.offset : 16 * (array.offset + n)]
    digits = np.stack([data >> 4, data & 15], axis=-1).reshape(n, 32)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[digits]
    parts = np.split(np.insert(digits, [8, 12, 16, 20], ord("-"), axis=1), 1)
    text = pa.StringArray.from_buffers(
        n, pa.py_buffer(np.arange(0, 36 * n + 1, 36, dtype=np.int32)), pa.py_buffer(parts[0])
    )
    return pc.if_else(pc.is_null(array), pa.scalar(None, pa.string()), text)


def _without_exponent(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Numbers as text; 1.5e+10 is written as 15000000000."""
    text = column.cast(pa.string())
    short = pc.fill_null(pc.match_substring_regex(text, "[eE]"), False)
    if not pc.any(short).as_py():
        return text
    plain = [f"{Decimal(value):f}" for value in text.filter(short).to_pylist()]
    return pc.replace_with_mask(one_array(text), one_array(short), pa.array(plain, pa.string()))


def _decimal_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if column.type.scale < 0:
        column = column.cast(pa.decimal256(min(column.type.precision - column.type.scale, 76), 0))
    text = _without_exponent(column)
    return pc.replace_substring_regex(text, r"^([^.]*?)(?:\.0*|(\.[0-9]*[1-9])0*)$", r"\1\2")


def _finite(number: Array) -> tuple[Array, Bools | None]:
    """[n] the numbers (NaN where bad), and [n] whether one is beyond float32."""
    with np.errstate(over="ignore"):
        bad: Bools = np.isinf(number.astype(np.float32, copy=False))
    return (np.where(bad, np.nan, number), bad) if bad.any() else (number, None)
