"""The service on Ray Serve: replicas that answer requests in batches."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from dataclasses import dataclass, replace
from typing import Any

from p5dist.config.scale import Scale
from p5dist.environment.extras import need
from p5dist.environment.ray_session import connect
from p5dist.errors import P5Error
from p5dist.inference.loading import load
from p5dist.serving.batches import Batches
from p5dist.serving.limits import TOKEN

NAME, FRONT = "p5dist", "front"
_TRIES = 4
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Service:
    """What is served, and how."""

    run: str
    """Folder or URL."""
    stage: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    cpus: float = 1.0
    """CPUs of a replica."""
    batch: int = 64
    """Requests that are answered together."""
    most_bytes: int = 4 << 20
    rate: float | None = None
    """Requests a second that are answered; None: no limit."""
    address: str | None = None
    """Ray cluster to join; None: Ray is started on this machine."""


def bind(service: Service, token: str | None) -> Any:
    """The application for ``serve.run`` and for a config file of Ray Serve."""
    from ray import serve
    from ray.exceptions import RayActorError

    from p5dist.serving.app import Settings, make_app
    from p5dist.serving.model import Model
    from p5dist.serving.schema import (
        Health,
        RecommendAnswer,
        RecommendRequest,
        ScoreAnswer,
        ScoreRequest,
    )

    settings = Settings(token, service.most_bytes, service.rate)

    @serve.deployment(
        name=NAME,
        num_replicas=service.replicas,
        max_ongoing_requests=16,
        ray_actor_options={"num_cpus": service.cpus},
        user_config={"run": service.run, "stage": service.stage},
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=20,
    )
    class Replica:
        """A process with the model. Ray Serve calls ``reconfigure`` with the run at the start, and
        again when another run is to be served."""

        def __init__(self) -> None:
            import torch

            torch.set_num_threads(max(int(service.cpus), 1))
            self.model: Model | None = None

        async def reconfigure(self, config: dict[str, Any]) -> None:
            if self.model is None:
                self.model = await asyncio.to_thread(Model, config["run"], config["stage"])
            else:
                await asyncio.to_thread(self.model.swap, config["run"], config["stage"])

        async def recommend(self, requests: list[RecommendRequest]) -> list[Any]:
            assert self.model is not None
            return list(await asyncio.to_thread(self.model.recommend, requests))

        async def score(self, request: ScoreRequest) -> ScoreAnswer | P5Error:
            assert self.model is not None
            try:
                return await asyncio.to_thread(self.model.score, request)
            except P5Error as e:
                return e

        async def health(self) -> Health:
            assert self.model is not None
            return self.model.health()

    @serve.deployment(
        name=FRONT,
        num_replicas=1,
        max_ongoing_requests=16 * service.batch,
        ray_actor_options={"num_cpus": 0},
    )
    @serve.ingress()
    class Front:
        """Takes requests in, without a model. A request whose replica dies is asked again of
        another one."""

        def __init__(self, replicas: Any) -> None:
            self.replicas = replicas
            self.batches = Batches(self._together, service.batch, 2 * service.replicas)

        def __serve_build_asgi_app__(self) -> Any:
            return make_app(self, settings)

        async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
            found = await self.batches.ask(request)
            if isinstance(found, P5Error):
                raise found
            answer: RecommendAnswer = found
            return answer

        async def _together(self, requests: list[RecommendRequest]) -> list[Any]:
            found: list[Any] = await self._ask("recommend", requests)
            return found

        async def score(self, request: ScoreRequest) -> ScoreAnswer:
            answer: ScoreAnswer = await self._ask("score", request)
            return answer

        async def health(self) -> Health:
            answer: Health = await self._ask("health")
            return answer

        async def _ask(self, name: str, *arguments: Any) -> Any:
            for left in reversed(range(_TRIES)):
                try:
                    found = await getattr(self.replicas, name).remote(*arguments)
                    break
                except RayActorError:
                    if not left:
                        raise
            if isinstance(found, P5Error):
                raise found
            return found

    return Front.bind(Replica.bind())  # type: ignore[attr-defined]


def application(args: dict[str, Any]) -> Any:
    """For a config file of Ray Serve, such as that of ``p5dist submit --render rayservice``.

    Args:
        args: fields of :class:`Service`.
    """
    return bind(Service(**args), os.environ.get(TOKEN))


def deploy(service: Service) -> str:
    """Start the service, or let one that runs on the same Ray cluster serve this run: its replicas
    load the run beside the old one and lose no request.

    Returns:
        The URL.

    Raises:
        P5Error: the run cannot be loaded; Ray does not start.
        ConfigError: Ray Serve is not installed.
    """
    serve = need("ray.serve", "serve", "p5dist serve")
    if "://" not in service.run:
        service = replace(service, run=os.path.abspath(service.run))  # noqa: PTH100
    load(service.run, stage=service.stage)  # errors here, in words, and not in a replica
    connect(Scale(address=service.address))
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": service.host, "port": service.port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    serve.run(bind(service, os.environ.get(TOKEN)), name=NAME, route_prefix="/")
    return f"http://{service.host}:{service.port}"


def wait_for_end() -> None:
    """Until Ctrl-C or SIGTERM; then the service ends after the requests that it is answering."""
    from ray import serve

    ended = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: ended.set())
    ended.wait()
    serve.shutdown()
