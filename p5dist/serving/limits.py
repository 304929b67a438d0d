"""What a caller may send: the token, the size of a request, requests a second."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from p5dist.serving.replies import problem

TOKEN = "P5DIST_SERVE_TOKEN"
"""Environment variable; if it is set, callers send ``Authorization: Bearer <token>``."""
_OPEN = ("/health", "/-/healthz", "/-/routes")


@dataclass
class Bucket:
    """So many requests a second, and as many at once after a pause (a token bucket)."""

    rate: float
    _level: float = field(init=False)
    _then: float = field(init=False)

    def __post_init__(self) -> None:
        self._level, self._then = max(self.rate, 1.0), time.monotonic()

    def take(self) -> bool:
        """Whether one more request is within the rate."""
        now = time.monotonic()
        self._level = min(self._level + (now - self._then) * self.rate, max(self.rate, 1.0))
        self._then = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


class Limits:
    """An ASGI middleware.

    Args:
        token: None: nobody is asked for one.
        most_bytes: of the body of a request.
        rate: requests a second that are answered; None: no limit.
    """

    def __init__(self, app: Any, token: str | None, most_bytes: int, rate: float | None) -> None:
        self._app, self._token, self._most = app, token, most_bytes
        self._bucket = None if rate is None else Bucket(rate)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refused = self._refused(headers)
        if refused is not None:
            await refused(scope, receive, send)
            return
        messages: list[Any] = []  # a body may come without its length
        size = 0
        while not messages or messages[-1].get("more_body", False):
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            if size > self._most:
                await self._too_large()(scope, receive, send)
                return

        async def again() -> Any:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, again, send)

    def _refused(self, headers: dict[bytes, bytes]) -> Response | None:
        if self._token is not None:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return _refusal(
                    401, "no or a wrong token", rule="Authorization: Bearer <token>",
                    fix=f"send the token that the service has in {TOKEN}",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        if self._bucket is not None and not self._bucket.take():
            return _refusal(
                429, "too many requests", rule=f"{self._bucket.rate:g} requests a second",
                fix="wait a second, or put several histories into a request",
                headers={"Retry-After": "1"},
            )  # fmt: skip
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            return self._too_large()
        return None

    def _too_large(self) -> Response:
        return _refusal(
            413, "the request is too large", rule=f"at most {self._most:,} bytes",
            fix="send fewer histories at once",
        )  # fmt: skip


def _refusal(
    status: int, message: str, *, rule: str, fix: str, headers: dict[str, str] | None = None
) -> Response:
    reply = problem(status, message, rule=rule, fix=fix)
    return Response(reply.body, status, headers, media_type="application/json")
