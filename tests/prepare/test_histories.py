"""Sessions, windows and splits of one shard's interactions, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from p5dist.config.prepare import Prepare
from p5dist.prepare.histories import build, over_length
from p5dist.prepare.interactions import Interactions
from p5dist.prepare.split import Cuts

A, V, T = 0, 1, 2  # train, validation, test


def rows(user: list[int], time: list[int], part: list[int] | None = None) -> Interactions:
    return Interactions(
        user=np.array(user, np.int32),
        item=np.arange(len(user), dtype=np.int32),
        time=np.array(time, np.int64),
        rating=None,
        part=None if part is None else np.array(part, np.int8),
        coded={},
        raw=None,
    )


def prepare(**settings: Any) -> Prepare:
    return Prepare.model_validate(
        {"source": {"files": "log", "columns": {"timestamp": "t"}}, **settings}
    )


USERS = [0] * 7 + [1] * 2 + [2] * 3
SECOND = 1_000_000
TIMES = [t * SECOND for t in (1, 2, 3, 50, 51, 52, 53, 1, 90, 7, 8, 60)]


def test_leave_one_out() -> None:
    found = build(rows(USERS, TIMES), prepare(), None)
    assert found.lengths.tolist() == [7, 2, 3]
    assert found.user.tolist() == [0, 1, 2]
    assert found.split.tolist() == [A] * 5 + [V, T] + [A, A] + [A, V, T]


def test_sessions_are_histories_of_their_own() -> None:
    found = build(rows(USERS, TIMES), prepare(session_gap=20), None)
    assert found.lengths.tolist() == [3, 4, 1, 1, 2, 1]
    assert found.user.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.split.tolist() == [A, V, T, A, A, V, T, A, A, A, A, A]


@pytest.mark.parametrize(
    ("size", "lengths"), [(3, [1, 3, 3, 2, 3]), (4, [3, 4, 2, 3]), (7, [7, 2, 3]), (1, [1] * 12)]
)
def test_windows_end_where_the_history_ends_and_change_no_split(
    size: int, lengths: list[int]
) -> None:
    whole = build(rows(USERS, TIMES), prepare(), None)
    found = build(rows(USERS, TIMES), prepare(max_length=size), None)
    assert found.lengths.tolist() == lengths
    assert np.repeat(found.user, found.lengths).tolist() == USERS
    assert found.split.tolist() == whole.split.tolist()


def test_only_the_latest_of_a_long_history() -> None:
    job = prepare(max_length=3, longer="last")
    old = over_length(rows(USERS, TIMES), job)
    assert old.tolist() == [True] * 4 + [False] * 8
    assert build(rows(USERS, TIMES).take(~old), job, None).lengths.tolist() == [3, 2, 3]
    assert over_length(rows(USERS, TIMES), prepare(max_length=3)) is None
    assert over_length(rows(USERS, TIMES), prepare(max_length=7, longer="last")) is None


def test_ratio_rounds_down_and_leaves_something_to_train_on() -> None:
    rule = {"kind": "ratio", "validation": 0.2, "test": 0.3}
    found = build(rows(USERS, TIMES), prepare(split=rule), None)
    # 7: floor(2.1) test, floor(1.4) validation; 2 and 3: nothing.
    assert found.split.tolist() == [A] * 4 + [V, T, T] + [A, A] + [A, A, A]


def test_time() -> None:
    rule = {"kind": "time", "validation": 0.3, "test": 0.1}
    found = build(rows(USERS, TIMES), prepare(split=rule), Cuts(51 * SECOND, 60 * SECOND))
    assert found.split.tolist() == [A, A, A, A, V, V, V, A, T, A, A, T]


def test_histories_without_what_is_dropped() -> None:
    found = build(rows(USERS, TIMES), prepare(), None)
    keep = np.array([1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1], bool)
    left = found.where(keep)
    assert left.lengths.tolist() == [2, 3] and left.user.tolist() == [0, 2]
    assert left.rows.item.tolist() == [0, 6, 9, 10, 11] and left.split.tolist() == [A, T, A, V, T]
    nothing = found.where(np.zeros(12, bool))
    assert len(nothing.lengths) == len(nothing.rows) == 0
    assert len(nothing.where(np.zeros(0, bool)).lengths) == 0
