"""Columns of plain numbers are read at once, to what every value alone gives."""

from __future__ import annotations

from typing import Any

import pytest

from p5dist.errors import DataError
from p5dist.inference.given import _microseconds, _numbers, given_times

TIMES: list[Any] = [0, 1, -3, 881250949, 881250949.25, 1700000000.123457, 0.0000005, 2.5e-6]


def test_times_at_once_are_those_of_each_value() -> None:
    found = _numbers([[time] for time in TIMES], _microseconds)
    assert found is not None and found.tolist() == [_microseconds(time) for time in TIMES]


@pytest.mark.parametrize("other", [True, "2024-01-01", 10**10, 10**400, float("nan")])
def test_other_values_are_seen_one_by_one(other: Any) -> None:
    assert _numbers([[1, other]], _microseconds) is None


def test_wrong_times_are_still_errors() -> None:
    for wrong in (float("nan"), float("inf"), 10**12):
        with pytest.raises(DataError, match="invalid entry of at"):
            given_times([wrong], 1)
