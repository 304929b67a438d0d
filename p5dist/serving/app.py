"""The routes of the service, as a FastAPI application; its page of the API is at /docs."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from p5dist import __version__
from p5dist.errors import P5Error
from p5dist.serving.limits import Limits, problem
from p5dist.serving.schema import (
    Health,
    Problem,
    RecommendAnswer,
    RecommendRequest,
    ScoreAnswer,
    ScoreRequest,
)

_log = logging.getLogger("p5dist.serving")
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the request does not fit the run"},
    401: {"model": Problem, "description": "no or a wrong token"},
    413: {"model": Problem, "description": "the request is too large"},
    422: {"model": Problem, "description": "the request breaks a rule of this page"},
    429: {"model": Problem, "description": "too many requests"},
    500: {"model": Problem, "description": "the service failed; its log says why"},
}


class Backend(Protocol):
    """What computes the answers."""

    def recommend(self, request: RecommendRequest) -> Awaitable[RecommendAnswer]:
        """Raises P5Error."""
        ...

    def score(self, request: ScoreRequest) -> Awaitable[ScoreAnswer]:
        """Raises P5Error."""
        ...

    def health(self) -> Awaitable[Health]:
        """What is served."""
        ...


@dataclass(frozen=True)
class Settings:
    """Limits of the service."""

    token: str | None = None
    most_bytes: int = 4 << 20
    rate: float | None = None
    """Requests a second that are answered; None: no limit."""


def make_app(backend: Backend, settings: Settings) -> Any:
    """The ASGI application."""
    app = FastAPI(
        title="p5dist", version=__version__,
        description="Recommendations and predictions of a trained p5dist run.",
    )  # fmt: skip
    counted = _Counted()
    app.middleware("http")(counted.watch)
    app.add_exception_handler(P5Error, _not_answered)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(Exception, _failed)

    @app.post("/recommend", responses=_ERRORS)
    async def recommend(request: RecommendRequest) -> RecommendAnswer:
        """The best items for each history, exactly over the whole catalogue."""
        return await backend.recommend(request)

    @app.post("/score", responses=_ERRORS)
    async def score(request: ScoreRequest) -> ScoreAnswer:
        """Ratings or probabilities of given items."""
        return await backend.score(request)

    @app.get("/health")
    async def health() -> Health:
        """Whether a run is served, and which."""
        return await backend.health()

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: _ERRORS[401]})
    async def metrics() -> PlainTextResponse:
        """Requests and their seconds, for Prometheus."""
        return PlainTextResponse(generate_latest(counted.registry).decode())

    return Limits(app, settings.token, settings.most_bytes, settings.rate)


class _Counted:
    """Counts requests by path and status, and their seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "p5dist_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "p5dist_seconds", "Seconds of a request", ["path"], registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        )  # fmt: skip

    async def watch(self, request: Request, call_next: Any) -> Any:
        began = time.perf_counter()
        answer = await call_next(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")  # not what callers make up
        self._requests.labels(path, answer.status_code).inc()
        self._seconds.labels(path).observe(time.perf_counter() - began)
        return answer


async def _not_answered(_: Request, error: Any) -> JSONResponse:
    return problem(
        400, error.what, where=error.where, value=error.value, rule=error.rule, fix=error.fix
    )


async def _not_valid(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return problem(
        422, "the request breaks a rule", where=where,
        value=repr(first.get("input"))[:200], rule=first["msg"].removeprefix("Value error, "),
        fix=f"correct {where}; /docs describes the requests",
    )  # fmt: skip


async def _failed(_: Request, error: Exception) -> JSONResponse:
    _log.error("a request failed", exc_info=error)
    return problem(500, "the service failed", fix="look at the log of the service")
