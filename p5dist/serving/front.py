"""What stands between HTTP and the replicas: requests put together, and asked again of another
replica if theirs dies."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError

from p5dist.serving.batches import Batches
from p5dist.serving.replies import Reply
from p5dist.serving.schema import Health

_TRIES = 4


class Front:
    """A :class:`.app.Backend` that asks replicas.

    Args:
        replicas: the handle of Ray Serve.
        batch: requests of a call.
        number: replicas.
    """

    def __init__(self, replicas: Any, batch: int, number: int) -> None:
        self._replicas = replicas
        # One call a replica: those that come meanwhile make the next batch larger, and a call
        # costs more than the requests in it.
        self._batches = Batches(self._together, batch, at_once=number)

    async def recommend(self, body: bytes) -> Reply:
        reply: Reply = await self._batches.ask(body)
        return reply

    async def score(self, body: bytes) -> Reply:
        reply: Reply = await self._ask("score", body)
        return reply

    async def health(self) -> Health:
        found: Health = await self._ask("health")
        return found

    async def _together(self, bodies: list[bytes]) -> list[Reply]:
        replies: list[Reply] = await self._ask("recommend", bodies)
        return replies

    async def _ask(self, name: str, *arguments: Any) -> Any:
        for left in reversed(range(_TRIES)):
            try:
                return await getattr(self._replicas, name).remote(*arguments)
            except RayActorError:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")
