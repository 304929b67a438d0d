"""Segments by hand."""

from __future__ import annotations

import numpy as np
import pytest

from p5dist.data.jagged import offsets_of
from p5dist.ranking import segments
from p5dist.ranking.metrics import Estimate, estimate
from p5dist.ranking.segments import (
    Segments,
    by_attribute,
    by_history_length,
    by_popularity,
    by_time,
    by_training,
    segment_metrics,
)


def labels_of(found: Segments, targets: int) -> list[list[str]]:
    """The labels of each target."""
    return [
        [found.labels[c] for t, c in zip(found.target, found.code, strict=True) if t == target]
        for target in range(targets)
    ]


def test_history_length() -> None:
    found = by_history_length(np.array([1, 4, 5, 9, 10, 19, 20, 49, 50, 9000, 0]))
    assert found.labels == ("1–4", "5–9", "10–19", "20–49", "50+")
    assert found.code.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.target.tolist() == list(range(10))  # no segment without history


def test_head_middle_and_tail() -> None:
    # 100 interactions. By falling count the items begin at 0 (id 3), 18 (2), 33 (1), 43 (4), 53
    # (5), 63 (6), 73 (8), 83 (7) and 92 (9); id 10 has none.
    count = np.array([10, 15, 18, 10, 10, 10, 9, 10, 8, 0])
    found = by_popularity(np.arange(1, 11), count)
    middle = ["middle"]
    expected = [
        middle,
        ["head"],
        ["head"],
        middle,
        middle,
        middle,
        ["tail"],
        middle,
        *[["tail"]] * 2,
    ]
    assert labels_of(found, 10) == expected
    assert by_popularity(np.array([9, 3, 3]), count).code.tolist() == [2, 0, 0]
    # Exactly at a border: the last 20 % begin with the second item.
    assert by_popularity(np.array([1, 2]), np.array([80, 20])).code.tolist() == [0, 2]


def test_cold_items() -> None:
    found = by_training(np.array([1, 2, 1]), np.array([0, 3]))
    assert labels_of(found, 3) == [["cold"], ["warm"], ["cold"]]


def test_attribute_values(monkeypatch: pytest.MonkeyPatch) -> None:
    # Values: a, b, c, d; item 1 has b and c, item 2 b, item 3 c, d and a, item 4 none.
    offsets = offsets_of(np.array([0, 2, 1, 3, 0]))
    values = np.array([2, 3, 2, 3, 4, 1])
    item = np.array([2, 1, 4, 3, 2])
    found = by_attribute("genre", item, offsets, values, "abcd")
    assert found.family == "genre"
    assert labels_of(found, 5) == [["b"], ["b", "c"], ["no value"], ["c", "a", "d"], ["b"]]
    monkeypatch.setattr(segments, "VALUES", 2)
    found = by_attribute("genre", item, offsets, values, "abcd")
    assert found.labels == ("b", "c", "other values", "no value")
    assert labels_of(found, 5) == [["b"], ["b", "c"], ["no value"], ["c", "other values"], ["b"]]


@pytest.mark.parametrize(
    ("times", "labels"),
    [
        (["2015-03-01", "2015-03-02T23:59", "2015-03-03"], ["2015-03-01", "2015-03-02"]),
        ([f"2015-{m:02d}-10" for m in range(1, 9)], ["2015-01-10", "2015-02-10"]),
        ([f"2015-{m:02d}-{d}" for m in range(1, 9) for d in (10, 11)], ["2015-01", "2015-02"]),
        ([f"2015-{m:02d}-10" for m in range(1, 13)], ["2015 Q1", "2015 Q2"]),
        ([f"{y}-{m:02d}-10" for y in (1969, 1970) for m in range(1, 13)], ["1969 Q1", "1969 Q2"]),
        ([f"{y}-0{m}-10" for y in (1999, 2000, 2001) for m in (1, 4, 7)], ["1999", "2000"]),
        ([f"{y}-01-10" for y in range(1999, 2013)], ["1998–1999", "2000–2001"]),
    ],
)
def test_time(times: list[str], labels: list[str]) -> None:
    stamps = np.array(times, dtype="datetime64[us]").astype(np.int64)
    found = by_time(stamps)
    assert list(found.labels[:2]) == labels and len(found.labels) <= 8
    shown = [found.labels[code] for code in found.code]
    assert shown == sorted(shown)
    assert found.target.tolist() == list(range(len(times)))


def test_means_by_segment() -> None:
    found = Segments("f", ("a", "nobody", "b"), np.array([0, 1, 1, 3]), np.array([0, 0, 2, 2]))
    values = {"hr@1": np.array([1.0, 0, 9, 1]), "rmse": np.array([4.0, 4, 9, 12])}
    a, b = segment_metrics(values, np.array([5, 5, 6, 7]), found)
    assert (a.label, a.targets, a.users) == ("a", 2, 1)
    assert a.metrics == {"hr@1": Estimate(0.5), "rmse": Estimate(2.0)}  # one user: no interval
    assert (b.label, b.targets, b.users) == ("b", 2, 2)
    assert b.metrics["hr@1"].value == 0.5
    assert b.metrics["rmse"].value == pytest.approx(8**0.5)


def test_intervals_of_segments_by_hand() -> None:
    # Users 1, 2, 3 with 2, 1, 1 targets and sums 2, 0, 1: mean ¾, deviations ½, −¾, ¼.
    found = Segments("f", ("a",), np.arange(4), np.zeros(4, dtype=np.int64))
    (one,) = segment_metrics({"x": np.array([1.0, 1, 0, 1])}, np.array([1, 1, 2, 3]), found)
    half = 1.959964 * (3 / 2 * (1 / 4 + 9 / 16 + 1 / 16) / 16) ** 0.5
    assert one.metrics["x"] == Estimate(0.75, pytest.approx(0.75 - half), 1.0)
    assert 0.75 + half > 1


def test_intervals_of_segments_are_those_of_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    user = np.sort(rng.integers(0, 900, 3000))
    values = {"hr": (rng.random(3000) < rng.random(900)[user]).astype(np.float64)}
    whole = Segments("all", ("all",), np.arange(3000), np.zeros(3000, dtype=np.int64))
    (found,) = segment_metrics(values, user, whole)
    drawn = estimate(values, user, resamples=4000, seed=1)["hr"]
    assert found.metrics["hr"].value == pytest.approx(drawn.value)
    assert found.metrics["hr"].low == pytest.approx(drawn.low, abs=0.002)
    assert found.metrics["hr"].high == pytest.approx(drawn.high, abs=0.002)


def test_no_targets() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    families = [
        by_history_length(nothing), by_popularity(nothing, np.array([1])), by_time(nothing),
        by_attribute("a", nothing, np.array([0, 0]), nothing, []),
    ]  # fmt: skip
    for family in families:
        assert segment_metrics({"hr@1": np.zeros(0)}, nothing, family) == []
