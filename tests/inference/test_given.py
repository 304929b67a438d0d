"""Ids and times that a caller gives, as prepared data has them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from p5dist.errors import DataError
from p5dist.inference.given import given_times
from p5dist.inference.items import id_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12, "12"), (np.int32(12), "12"), (12.0, "12"), (np.float64(-3.0), "-3"), (12.5, "12.5"),
        (Decimal("12.00"), "12"), ("12.0", "12.0"), ("007", "007"), (float("nan"), "nan"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)  # fmt: skip
def test_whole_numbers_of_any_type_are_one_id(value: Any, text: str) -> None:
    assert id_text(value) == text


def test_times_are_kept_to_the_microsecond() -> None:
    moment = datetime(2024, 5, 1, 14, 30, 0, 250, timezone(timedelta(hours=2)))
    given = [
        1714566600, 1714566600.25, moment, "2024-05-01T12:30:00.000250Z",
        np.datetime64("2024-05-01T12:30:00.000250"), moment.replace(tzinfo=None),
    ]  # fmt: skip
    second = 1714566600_000_000
    assert given_times(given, 6).tolist() == [
        second, second + 250_000, second + 250, second + 250, second + 250,
        second + 7200_000_000 + 250,
    ]  # fmt: skip


@pytest.mark.parametrize("value", [1714566600_000, -1e12, float("nan"), float("inf"), "soon", None])
def test_what_is_no_time(value: Any) -> None:
    with pytest.raises(DataError, match=r"seconds since 1970 \(not milliseconds\)"):
        given_times([value], 1)
