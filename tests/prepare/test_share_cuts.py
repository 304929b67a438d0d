"""Cuts of a time split at shares, against the definition by sorting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5dist.config.splits import TimeSplit
from p5dist.data.jagged import Ints
from p5dist.prepare.share_cuts import Bins, find_cuts
from p5dist.prepare.split import Cuts
from tests.prepare.reference import exact


def cuts(
    times: list[int], test: float, validation: float | None = None
) -> tuple[Cuts, list[str], int]:
    """The cuts, the warnings, and how often the times were counted."""
    rule = TimeSplit.model_validate({"kind": "time", "test": test, "validation": validation})
    shards, rounds = [np.array(times[i::3], np.int64) for i in range(3)], 0

    def count(bins: list[Bins]) -> list[Ints]:
        nonlocal rounds
        rounds += 1
        return [sum(some.counts(shard) for shard in shards) for some in bins]

    found, warnings = find_cuts(rule, min(times), max(times), count)
    return found, warnings, rounds


def test_by_hand() -> None:
    times = [100, 102, 102, 102, 104, 104, 104, 108, 108, 108]
    found, warnings, _ = cuts(times, 0.25, 0.2)  # 2.5 and 4.5 interactions at least
    assert found == Cuts(104, 108)
    assert warnings == [
        "prepare.split: validation has 0.3 of all interactions instead of 0.2, since interactions "
        "at one time stay together"
    ]


def test_decimal_digits_of_a_share_count() -> None:
    # 0.29 of 100 is 29, though 0.29 * 100 is less in floats, and 0.1 + 0.2 is 30 and not more.
    assert cuts(list(range(100)), 0.29)[0] == Cuts(71, 71)
    assert cuts(list(range(100)), 0.1, 0.2)[0] == Cuts(70, 90)


def test_one_far_off_time_changes_no_other_cut() -> None:
    year = 365 * 86_400 * 1_000_000
    times = [*range(0, year, year // 1000), 50_000 * year]
    found, warnings, rounds = cuts(times, 0.2)
    assert found.test == sorted(times)[-201] and not warnings
    assert rounds <= 4


def test_all_times_equal() -> None:
    found, [warning], _ = cuts([7] * 10, 0.2)
    assert found == Cuts(7, 7)
    assert warning.startswith("prepare.split: test has 1 of all interactions instead of 0.2")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-(10**6), 10**6) | st.integers(-(2**62), 2**62), min_size=1, max_size=60),
    st.sampled_from([0.01, 0.1, 0.29, 1 / 3, 0.5]),
    st.sampled_from([None, 0.07, 0.3, 0.4]),
)
def test_as_by_sorting(times: list[int], test: float, validation: float | None) -> None:
    def expected(share: object) -> int:
        return max(t for t in times if sum(x >= t for x in times) >= share * len(times))

    found, _, _ = cuts(times, test, validation)
    assert found.test == expected(exact(test))
    assert found.validation == expected(exact(test) + exact(validation or 0))


@pytest.mark.parametrize("test", [20, 0, 1, 1.5, 2024, -0.1, "0.2", "20240503", "inf", True])
def test_a_number_is_no_time(test: object) -> None:
    with pytest.raises(ValueError, match=r"a share lies between 0 and 1 and has no quotes"):
        TimeSplit.model_validate({"kind": "time", "test": test})
    with pytest.raises(ValueError, match=r"a share lies between 0 and 1 and has no quotes"):
        TimeSplit.model_validate({"kind": "time", "test": 0.2, "validation": test})
