"""Requests that come while others are answered are answered together, without waiting for more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class Batches:
    """One call for many requests: a call between processes costs more than an answer.

    Args:
        send: answers requests, in their order.
        most: requests of a call.
        at_once: calls that are under way at the same time.
    """

    def __init__(
        self, send: Callable[[list[Any]], Awaitable[list[Any]]], most: int, at_once: int
    ) -> None:
        self._send, self._most, self._at_once = send, most, at_once
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, request: Any) -> Any:
        """The answer to one request; raises what its call raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if len(self._tasks) < self._at_once:
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _work(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                found = await self._send([request for request, _ in taken])
            except Exception as e:
                found = [e] * len(taken)
                for _, answer in taken:
                    if not answer.done():  # the caller may have gone away
                        answer.set_exception(e)
            for (_, answer), one in zip(taken, found, strict=True):
                if not answer.done():
                    answer.set_result(one)
