from __future__ import annotations

import pyarrow as pa

from p5dist.prepare.values import as_text


def test_as_text() -> None:
    def text(array: pa.Array, unit: str = "s") -> list[str | None]:
        return as_text(pa.chunked_array([array]), unit).to_pylist()

    assert text(pa.array([1.0, 2.5, None, float("nan")])) == ["1", "2.5", None, "nan"]
    assert text(pa.array(["a", None]).dictionary_encode()) == ["a", None]
    assert text(pa.array([1_500_000_000_123], pa.timestamp("ms")), "us") == ["1500000000123000"]
    assert text(pa.array([1_500_000_000_123], pa.timestamp("ms"))) == ["1500000000"]
    assert text(pa.array([1], pa.date32())) == ["86400"]
    assert text(pa.array([2**63], pa.uint64())) == [str(2**63)]
    times = pa.array([1_500_000_000_123], pa.timestamp("ms"))
    assert text(times, "iso") == ["2017-07-14 02:40:00.123"]
    assert text(times.cast(pa.timestamp("ms", "UTC")), "iso") == ["2017-07-14 02:40:00.123Z"]
    assert text(pa.array([True, None])) == ["true", None]
    assert text(pa.array(["12.50"]).cast(pa.decimal128(5, 2))) == ["12.50"]
    for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.binary(2)):
        assert text(pa.array([b"\xc3\xa9", None], pa.binary(2)).cast(pa.binary()).cast(kind)
                    if kind != pa.binary(2) else pa.array([b"\xc3\xa9", None], kind)) == [
            "é", None,
        ]  # fmt: skip
    assert text(pa.array([[1, None], None])) == [["1", None], None]
