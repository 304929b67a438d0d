from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest

from p5dist.errors import DataError
from p5dist.prepare.values import as_text, check_exact


@pytest.mark.parametrize(
    ("kind", "largest"), [(pa.float16(), 2**11), (pa.float32(), 2**24), (pa.float64(), 2**53)]
)
def test_ids_in_floats_must_be_exact(kind: pa.DataType, largest: int) -> None:
    def check(number: int, noun: str = "ids") -> None:
        column = pa.chunked_array([pa.array([1, None, number]).cast(kind, safe=False)])
        check_exact(column, "u", "log.parquet", noun)

    check(largest - 1)
    check(1 - largest)
    for number in (largest, largest + 2, -largest):
        with pytest.raises(DataError, match="integers or text") as error:
            check(number)
        assert error.value.where == "log.parquet" and str(largest) in str(error.value.rule)
    # Of times in float64, a microsecond is exact enough.
    if kind == pa.float64():
        check(largest, "times")
    else:
        with pytest.raises(DataError, match="times"):
            check(largest, "times")


def test_as_text() -> None:
    def text(array: pa.Array) -> list[str | None]:
        return as_text(pa.chunked_array([array])).to_pylist()

    assert text(pa.array([1.0, 2.5, None, float("nan")])) == ["1", "2.5", None, "nan"]
    assert text(pa.array(["a", None]).dictionary_encode()) == ["a", None]
    assert text(pa.array([1], pa.date32())) == ["1970-01-02"]
    assert text(pa.array([2**63], pa.uint64())) == [str(2**63)]
    times = pa.array([1_500_000_000_123], pa.timestamp("ms"))
    assert text(times) == ["2017-07-14 02:40:00.123"]
    assert text(times.cast(pa.timestamp("ms", "UTC"))) == ["2017-07-14 02:40:00.123Z"]
    assert text(pa.array([True, None])) == ["true", None]
    decimals = ["12.50", "12.00", "-0.05", "100", "0.00", None]
    assert text(pa.array(decimals).cast(pa.decimal128(5, 2))) == [
        "12.5", "12", "-0.05", "100", "0", None,
    ]  # fmt: skip
    hundreds = pa.array([Decimal("1200"), Decimal("1E+40")], pa.decimal256(45, -2))
    assert text(hundreds) == ["1200", "1" + 40 * "0"]
    for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.binary(2)):
        assert text(pa.array([b"\xc3\xa9", None], pa.binary(2)).cast(pa.binary()).cast(kind)
                    if kind != pa.binary(2) else pa.array([b"\xc3\xa9", None], kind)) == [
            "é", None,
        ]  # fmt: skip
    assert text(pa.array([[1, None], None])) == [["1", None], None]


def test_numbers_with_a_fraction_have_one_text_in_every_type() -> None:
    for text in ("12345678901.5", "0.0000001", "-25000000000.25", "2.5"):
        columns = (
            pa.array([float(text), None]),
            pa.array([Decimal(text), None], pa.decimal128(30, 10)),
            pa.array([text, None]),
        )
        for column in columns:
            assert as_text(pa.chunked_array([column])).to_pylist() == [text, None]
