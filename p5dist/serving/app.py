"""The routes of the service, as a FastAPI application; its page of the API is at /docs."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from p5dist import __version__
from p5dist.serving.limits import Limits
from p5dist.serving.replies import Reply, problem
from p5dist.serving.schema import (
    Health,
    Problem,
    RecommendAnswer,
    RecommendRequest,
    ScoreAnswer,
    ScoreRequest,
)

_log = logging.getLogger("p5dist.serving")
_COMPONENT = "#/components/schemas/{model}"
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the request does not fit the run"},
    401: {"model": Problem, "description": "no or a wrong token"},
    413: {"model": Problem, "description": "the request is too large"},
    422: {"model": Problem, "description": "the request breaks a rule of this page"},
    429: {"model": Problem, "description": "too many requests"},
    500: {"model": Problem, "description": "the service failed; its log says why"},
}


class Backend(Protocol):
    """What computes the answers, from the body of a request to that of the reply."""

    def recommend(self, body: bytes) -> Awaitable[Reply]:
        """A :class:`.schema.RecommendRequest` → :class:`.schema.RecommendAnswer`."""
        ...

    def score(self, body: bytes) -> Awaitable[Reply]:
        """A :class:`.schema.ScoreRequest` → :class:`.schema.ScoreAnswer`."""
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
    """The ASGI application. It does not look into the bodies of requests: the process with the
    model does, and so one process can take requests for many of them."""
    app = FastAPI(
        title="p5dist", version=__version__,
        description="Recommendations and predictions of a trained p5dist run.",
    )  # fmt: skip
    app.add_exception_handler(Exception, _failed)
    direct = _Direct(app, {"/recommend": backend.recommend, "/score": backend.score})
    counted = _Counted(direct)

    @app.post("/recommend", **_described(RecommendRequest, RecommendAnswer))
    async def recommend() -> Response:
        """The best items for each history, exactly over the whole catalogue."""
        raise AssertionError(f"{_Direct.__name__} answers it")

    @app.post("/score", **_described(ScoreRequest, ScoreAnswer))
    async def score() -> Response:
        """Ratings or probabilities of given items."""
        raise AssertionError(f"{_Direct.__name__} answers it")

    @app.get("/health")
    async def health() -> Health:
        """Whether a run is served, and which."""
        return await backend.health()

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: _ERRORS[401]})
    async def metrics() -> PlainTextResponse:
        """Requests and their seconds, for Prometheus."""
        return PlainTextResponse(generate_latest(counted.registry).decode())

    _describe_requests(app)
    return Limits(counted, settings.token, settings.most_bytes, settings.rate)


class _Direct:
    """An ASGI middleware that answers the requests of which there are many by itself: the way
    through FastAPI takes as long as some answers. Their routes are there for the page of the API.

    Args:
        asked: by path what answers a body.
    """

    def __init__(self, app: Any, asked: Mapping[str, Callable[[bytes], Awaitable[Reply]]]) -> None:
        self._app, self._asked = app, asked

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        ask = None
        if scope["type"] == "http" and scope["method"] == "POST":
            ask = self._asked.get(scope["path"])
        if ask is None:
            await self._app(scope, receive, send)
            return
        parts, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        try:
            reply = await ask(b"".join(parts))
        except Exception as e:
            reply = _failure(e)
        scope["answered"] = scope["path"]
        length = str(len(reply.body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, media_type="application/json")


def _described(asked: type[BaseModel], answered: type[BaseModel]) -> dict[str, Any]:
    """A request as it stands in the page of the API."""
    schema = {"$ref": _COMPONENT.format(model=asked.__name__)}
    return {
        "response_model": answered,
        "responses": _ERRORS,
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    }


def _describe_requests(app: FastAPI) -> None:
    """Add the models of the requests, which no route has as a parameter, to the page of the API."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        found = made()
        asked = [(model, "validation") for model in (RecommendRequest, ScoreRequest)]
        _, models = models_json_schema(asked, ref_template=_COMPONENT)  # type: ignore[arg-type]
        found["components"]["schemas"].update(models["$defs"])
        return found

    app.openapi = openapi  # type: ignore[method-assign]


class _Counted:
    """An ASGI middleware that counts requests by path and status, and their seconds."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "p5dist_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "p5dist_seconds", "Seconds of a request", ["path"], registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        )  # fmt: skip

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            # Not what callers make up.
            path = scope.get("answered") or getattr(scope.get("route"), "path", "other")
            self._requests.labels(path, status).inc()
            self._seconds.labels(path).observe(time.perf_counter() - began)


async def _failed(_: Request, error: Exception) -> Response:
    return _response(_failure(error))


def _failure(error: Exception) -> Reply:
    _log.error("a request failed", exc_info=error)
    return problem(500, "the service failed", fix="look at the log of the service")
