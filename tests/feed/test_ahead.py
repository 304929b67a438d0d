"""Batches made ahead: order, bound, errors, end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from p5dist.data.histories import Histories
from p5dist.errors import P5Error, ShardError
from p5dist.feed.ahead import prefetch

STEPS = range(5, 25)


def stream(fails_at: int | None = None, error: type[Exception] = ShardError) -> Iterator[Any]:
    for step in STEPS:
        if step == fails_at:
            raise error("broken")
        yield step, Histories.empty()


Made = tuple[int, P5Error | None]


def make(step: int, _: Histories, error: P5Error | None) -> Made:
    return step, error


def feed_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "feed"]


def test_every_batch_comes_in_order_and_the_thread_ends() -> None:
    with prefetch(stream(), make, start=5, stop=25) as batches:
        found = list(batches)
    assert found == [(step, None) for step in STEPS]
    assert not feed_threads()


def test_no_more_than_the_bound_is_made_and_all_of_it_also_at_the_end() -> None:
    made: list[int] = []
    enough = threading.Event()

    def slow_make(step: int, histories: Histories, error: P5Error | None) -> Made:
        made.append(step)
        if step == 5 + 3 + 1:
            enough.set()
        return make(step, histories, error)

    with prefetch(stream(), slow_make, start=5, stop=25, ahead=3) as batches:
        assert [next(batches)[0], next(batches)[0]] == [5, 6]
        assert enough.wait(10)
        assert made == [5, 6, 7, 8, 9]
    assert made == [5, 6, 7, 8, 9]
    assert not feed_threads()


def test_leaving_at_once_still_makes_what_other_workers_make() -> None:
    made: list[int] = []

    def counted(step: int, histories: Histories, error: P5Error | None) -> Made:
        made.append(step)
        return make(step, histories, error)

    with prefetch(stream(), counted, start=5, stop=25, ahead=4):
        pass
    assert made == [5, 6, 7, 8]


def test_an_error_of_the_data_comes_with_every_batch_from_there_on() -> None:
    with prefetch(stream(fails_at=8), make, start=5, stop=25) as batches:
        found = list(batches)
    assert [step for step, _ in found] == list(STEPS)
    assert [error is None for _, error in found] == [step < 8 for step in STEPS]
    assert isinstance(found[-1][1], ShardError)


@pytest.mark.parametrize("where", ["stream", "make"])
def test_other_errors_reach_who_asks(where: str) -> None:
    def broken(step: int, histories: Histories, error: P5Error | None) -> Made:
        if where == "make" and step == 8:
            raise ZeroDivisionError
        return make(step, histories, error)

    steps = stream(8 if where == "stream" else None, ZeroDivisionError)
    found = []
    with (
        pytest.raises(ZeroDivisionError),
        prefetch(steps, broken, start=5, stop=25) as batches,
    ):
        for step, _ in batches:
            found.append(step)
    assert found == [5, 6, 7]
    assert not feed_threads()


def test_a_stream_that_ends_too_early_is_an_error() -> None:
    with (
        pytest.raises(AssertionError),
        prefetch(iter([(5, Histories.empty())]), make, start=5, stop=7) as batches,
    ):
        list(batches)
