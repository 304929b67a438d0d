"""Times of raw columns, typed or text, to the microsecond.

The same times give the same result whether they are typed or text.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.data.columns import SECOND
from p5dist.data.jagged import Array, Bools, Ints
from p5dist.prepare.arrays import is_integer_text
from p5dist.prepare.column_types import kind_of
from p5dist.prepare.values import coded, floats, numbers

_PER_SECOND = {"s": 1, "ms": 1_000, "us": SECOND, "ns": 1_000 * SECOND}
_LATEST = 2**62
_LARGEST_INT64 = "9223372036854775807"
_DATE_TIME = (
    r"^(?P<year>[0-9]{4})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12][0-9]|3[01])"
    r"(?:[Tt ](?P<hour>[01][0-9]|2[0-3])"
    r"(?::(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9])(?:[.,](?P<fraction>[0-9]+))?)?)?"
    r" ?(?:[Zz]|UTC|GMT|(?P<sign>[+-])(?P<zone_hour>[01][0-9]|2[0-3])"
    r"(?::?(?P<zone_minute>[0-5][0-9]))?)?"
    r")?$"
)


def microseconds(column: pa.ChunkedArray, unit: str) -> tuple[Ints, Bools | None]:
    """[n] microseconds since 1970, rounded to the nearest (halves up), and [n] whether the value is
    no time. Numbers with a fraction, or in floats, are exact until the year 2255.

    Args:
        column: numbers, their text, date-times as text (``unit`` iso), timestamps, or dates.
        unit: of numbers and their text: s, ms, us, ns, or iso.
    """
    kind = kind_of(column.type)
    if pa.types.is_dictionary(column.type):
        values, code = coded(column)
        time, bad = microseconds(pa.chunked_array([values]), unit)
        return time[code], None if bad is None else bad[code]
    null = np.asarray(pc.is_null(column)) if column.null_count else None
    if kind == "time":
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s"))
        time, bad = _of_integers(_integers(column), column.type.unit)
    elif kind == "integer" and column.type != pa.uint64():
        time, bad = _of_integers(_integers(column), unit)
    elif kind == "text":
        time, bad = _of_iso(column) if unit == "iso" else _of_number_text(column, unit)
    else:
        time, bad = _of_floats(floats(column), unit)
    return time, bad if null is None else null if bad is None else bad | null


def _integers(column: pa.ChunkedArray) -> Ints:
    """[n] the column, 0 for null."""
    number: Ints = column.cast(pa.int64()).fill_null(0).to_numpy()
    return number


def _of_integers(number: Ints, unit: str) -> tuple[Ints, Bools | None]:
    """[n] microseconds (0 where bad) of whole numbers of ``unit``, and [n] whether they are too
    many."""
    if unit == "ns":
        return number // 1000 + (number % 1000 >= 500), None
    factor = SECOND // _PER_SECOND[unit]
    limit = _LATEST // factor
    bad: Bools = (number <= -limit) | (number >= limit)
    if bad.any():
        return np.where(bad, 0, number) * factor, bad
    return number * factor, None


def _of_floats(number: Array, unit: str) -> tuple[Ints, Bools]:
    """[n] microseconds (0 where bad) of numbers of ``unit``, and [n] whether one is no number or
    too large."""
    per_second = _PER_SECOND[unit]
    with np.errstate(over="ignore"):
        number = number.astype(np.float64) * max(SECOND // per_second, 1)
        number = np.floor(number / max(per_second // SECOND, 1) + 0.5)
    bad = ~(np.abs(number) < _LATEST)
    return np.where(bad, 0, number).astype(np.int64), bad


def _of_number_text(text: pa.ChunkedArray, unit: str) -> tuple[Ints, Bools | None]:
    whole = is_integer_text(text)
    if not whole.all():
        text = pc.utf8_trim_whitespace(text.cast(pa.string()))
        whole = is_integer_text(text) | _is_long_integer(text)
    integer = np.asarray(pc.if_else(pa.array(whole), text, "0").cast(pa.int64()))
    time, bad = _of_integers(integer, unit)
    if not whole.all():
        number, no_number = numbers(text)
        of_floats, no_time = _of_floats(number, unit)
        time = np.where(whole, time, of_floats)
        bad = np.where(whole, False if bad is None else bad, no_number | no_time)
    return time, bad


def _is_long_integer(text: pa.ChunkedArray) -> Bools:
    """[n] whether each value is a whole number of 19 digits that fits into int64."""
    fits = pc.less_equal(pc.utf8_ltrim(text, "-"), _LARGEST_INT64)
    long = pc.match_substring_regex(text, r"^-?[0-9]{19}$")
    return np.asarray(pc.fill_null(pc.and_(fits, long), False))


def _of_iso(text: pa.ChunkedArray) -> tuple[Ints, Bools | None]:
    if text.null_count < len(text) and pc.all(pc.ends_with(text, " UTC")).as_py():
        text = pc.utf8_slice_codeunits(text, 0, -4)
    first = text[0].as_py() if len(text) else None
    zone = first is not None and re.search(r"[Zz]$|:.*[+-]", first) is not None
    try:
        time = text.cast(pa.timestamp("us", "UTC" if zone else None))
    except pa.ArrowInvalid:  # a zone in some rows only, a longer fraction, something bad
        return _of_iso_fields(pc.utf8_trim_whitespace(text.cast(pa.string())))
    return _integers(time), np.asarray(pc.is_null(text))


def _of_iso_fields(text: pa.ChunkedArray) -> tuple[Ints, Bools]:
    found = pc.extract_regex(text, _DATE_TIME)
    minus = pc.equal(pc.struct_field(found, "sign"), "-").fill_null(False)
    sign = np.where(np.asarray(minus), -1, 1)

    def digits(name: str) -> pa.ChunkedArray:
        return pc.fill_null(pc.struct_field(found, name), "1")

    def field(name: str) -> Ints:
        filled = pc.if_else(pc.equal(digits(name), ""), "0", digits(name))
        return np.asarray(filled.cast(pa.int64()))

    def clock(hour: str, minute: str) -> Ints:
        return 3600 * field(hour) + 60 * field(minute)

    tenths = pc.utf8_slice_codeunits(pc.utf8_rpad(digits("fraction"), 7, "0"), 0, 7)
    fraction = (np.asarray(tenths.cast(pa.int64())) + 5) // 10
    month = (field("year") - 1970).astype("M8[Y]").astype("M8[M]") + (field("month") - 1)
    day = month.astype("M8[D]") + (field("day") - 1)
    bad = np.asarray(pc.is_null(found)) | (day.astype("M8[M]") != month)
    zone = sign * clock("zone_hour", "zone_minute")
    second = 86400 * day.astype(np.int64) + clock("hour", "minute") + field("second") - zone
    return np.where(bad, 0, SECOND * second + fraction), bad
