from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from p5dist.config.prepare import Prepare
from p5dist.data import columns as c
from p5dist.prepare.histories import ShardHistories
from p5dist.prepare.interactions import Interactions, Names
from p5dist.prepare.profile import build_profile, profile_shard
from p5dist.prepare.vocabulary import Vocabulary

SECOND = 1_000_000
DAY = 86_400 * SECOND


def prepare(**options: Any) -> Prepare:
    columns = {"timestamp": "timestamp", "rating": "rating"}
    return Prepare.model_validate({"source": {"files": "unused", "columns": columns}, **options})


Shard = tuple[ShardHistories, Names, np.ndarray]


def shard(
    histories: dict[str, list[int]],
    rating: float | list[float] = 3.0,
    items: list[int] | None = None,
) -> Shard:
    """Users with the times of their interactions, and the items, of which two times three are in
    the order of external ids."""
    times = np.array([t for h in histories.values() for t in h], np.int64)
    n, lengths = len(times), np.array([len(h) for h in histories.values()], np.int64)
    rows = Interactions(
        user=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        item=np.array(items or [0] * n, np.int32),
        time=times,
        rating=np.broadcast_to(np.float32(rating), n).copy(),
        part=None,
        coded={},
        raw=None,
    )
    split = np.array([c.TRAIN] * (n - 1) + [c.TEST], np.int8)
    users = np.arange(len(lengths), dtype=np.int64)
    names = Names(pa.array(list(histories)), pa.array(["x", "y", "z"]), {})
    sessions = np.arange(len(users))
    return ShardHistories(users, sessions, lengths, rows, split), names, np.array([5, 6, 9])


def build(*shards: Shard, **options: Any) -> dict[str, Any]:
    items = Vocabulary(pa.array(["x"]), np.array([1]))
    parts = [profile_shard(*s) for s in shards]
    users = sum(len(s[1].users) for s in shards)
    return build_profile(
        parts, items, users, prepare(**options), {"null_user": 2}, ["about a table"]
    )


def test_sums_over_shards() -> None:
    start = 10_000 * DAY
    first = shard({"a": [start, start, start + 5 * SECOND, start + DAY]}, [1, 2, 2, float("nan")])
    second = shard({"b": [start + 5 * SECOND], "c": [start + DAY, start + DAY]}, [5, 5, 5])
    profile = build(first, second)
    assert (profile["interactions"], profile["users"], profile["rows_in"]) == (7, 3, 9)
    assert profile["density"] == pytest.approx(7 / 3)
    # The first of b has the time of the one before, which is another user's.
    assert profile["tied_share"] == pytest.approx(2 / 7)
    assert profile["per_day"] == {"day": ["1997-05-19", "1997-05-20"], "count": [4, 3]}
    assert profile["ratings"] == {"value": [1, 2, 5], "count": [1, 2, 3]}
    lengths = profile["lengths"]
    assert lengths["edges"] == [1, 2, 3, 4, 5] and lengths["counts"] == [1, 1, 0, 1]
    assert profile["rows_rejected"] == {"null_user": 2}
    assert profile_shard(*first).train_ratings == (3, 5.0, 1.0, 2.0)
    assert profile["warnings"][-1] == "about a table"


def test_warnings() -> None:
    start = 10_000 * DAY
    # Of the two ties of every user one rises, with three users both.
    orders = [[0, 2, 1]] * 7 + [[0, 1, 2]] * 3
    tied = shard({str(i): [start] * 3 for i in range(10)}, items=[i for o in orders for i in o])
    assert not [w for w in build(tied, ties="shuffled")["warnings"] if "rises" in w]
    [warning] = [w for w in build(tied)["warnings"] if "rises" in w]
    assert warning.startswith("67% of the interactions have the time of the one before, and in 65%")
    assert not [w for w in build(tied)["warnings"] if "of all interactions" in w]
    heavy = shard({"a": [start], "b": [start + i for i in range(9)]})
    assert "user 'b' has 90% of all interactions" in build(heavy)["warnings"]
    in_milliseconds = shard({"a": [start * 1000, start * 1000 + 1]})
    profile = build(in_milliseconds)
    assert [w for w in profile["warnings"] if "timestamp_unit" in w]
    assert profile["per_day"]["day"] == []


@pytest.mark.parametrize(
    ("days", "first_days"),
    [
        (400, ["1997-05-19", "1997-05-20"]),
        (401, ["1997-05-19", "1997-05-26"]),  # both are Mondays
        (2801, ["1997-05-01", "1997-06-01"]),
        (401 * 31, ["1997-05-01", "1997-07-01"]),
    ],
)
def test_long_logs_are_shown_by_week_or_month(days: int, first_days: list[str]) -> None:
    start = 10_000 * DAY
    per_day = build(shard({"a": [start + i * DAY for i in range(days)]}))["per_day"]
    assert per_day["day"][:2] == first_days
    assert len(per_day["day"]) <= 400 and sum(per_day["count"]) == days


def test_many_ratings_are_binned() -> None:
    ratings = build(shard({"a": list(range(1000))}, np.linspace(0, 1, 1000).tolist()))["ratings"]
    assert len(ratings["value"]) == 50 and sum(ratings["count"]) == 1000
    assert ratings["value"][0] == pytest.approx(0.01)
