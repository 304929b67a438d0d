"""Requests that come meanwhile are answered together, each with its own answer."""

from __future__ import annotations

import asyncio

import pytest

from p5dist.serving.batches import Batches


def test_requests_are_put_together_while_others_are_answered() -> None:
    calls: list[list[int]] = []

    async def send(requests: list[int]) -> list[int]:
        calls.append(requests)
        await asyncio.sleep(0.01)
        return [10 * request for request in requests]

    async def work() -> list[int]:
        batches = Batches(send, most=4, at_once=1)
        return list(await asyncio.gather(*(batches.ask(i) for i in range(10))))

    assert asyncio.run(work()) == [10 * i for i in range(10)]
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_error_reaches_those_who_asked_and_nobody_else() -> None:
    async def send(requests: list[int]) -> list[int]:
        await asyncio.sleep(0)
        if 0 in requests:
            raise ValueError("broken")
        return requests

    async def work() -> list[int | BaseException]:
        batches = Batches(send, most=2, at_once=1)
        asked = (batches.ask(i) for i in range(4))
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, second, *others = asyncio.run(work())
    assert isinstance(first, ValueError) and isinstance(second, ValueError)
    assert others == [2, 3]
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(Batches(send, 1, 1).ask(0))
