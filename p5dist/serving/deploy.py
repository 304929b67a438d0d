"""The service on Ray Serve: replicas that answer requests in batches."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from p5dist.config.scale import Scale
from p5dist.environment.extras import need
from p5dist.environment.ray_session import connect
from p5dist.errors import ConfigError
from p5dist.inference.loading import load
from p5dist.serving.limits import TOKEN

NAME, FRONT = "p5dist", "front"
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


def replicas(service: Service) -> Any:
    """The application of Ray Serve without HTTP: processes with the model."""
    from ray import serve

    from p5dist.serving.model import Model
    from p5dist.serving.replies import Reply
    from p5dist.serving.schema import Health

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
            _keep_what_is_there()

        async def recommend(self, bodies: list[bytes]) -> list[Reply]:
            assert self.model is not None
            return await asyncio.to_thread(self.model.recommend, bodies)

        async def score(self, body: bytes) -> Reply:
            assert self.model is not None
            return await asyncio.to_thread(self.model.score, body)

        async def health(self) -> Health:
            assert self.model is not None
            return self.model.health()

    return Replica.bind()  # type: ignore[attr-defined]


def application(args: dict[str, Any]) -> Any:
    """For a config file of Ray Serve, such as that of ``p5dist submit --render rayservice``: the
    HTTP proxies of Ray Serve take the requests.

    Args:
        args: fields of :class:`Service`.
    """
    from ray import serve

    from p5dist.serving.app import make_app
    from p5dist.serving.front import Front

    service = Service(**args)

    @serve.deployment(
        name=FRONT,
        num_replicas=1,
        max_ongoing_requests=16 * service.batch,
        ray_actor_options={"num_cpus": 0},
    )
    @serve.ingress()
    class Ingress:
        """Takes requests in, without a model."""

        def __init__(self, handle: Any) -> None:
            self.front = Front(handle, service.batch, service.replicas)

        def __serve_build_asgi_app__(self) -> Any:
            return make_app(self.front, _settings(service))

    return Ingress.bind(replicas(service))  # type: ignore[attr-defined]


def _keep_what_is_there() -> None:
    """Python's garbage collector would look through all that was loaded, a million objects, every
    few seconds: no request would be answered for 300 ms."""
    gc.collect()
    gc.freeze()


def _settings(service: Service) -> Any:
    from p5dist.serving.app import Settings

    return Settings(os.environ.get(TOKEN), service.most_bytes, service.rate)


def deploy(service: Service) -> Any:
    """Start replicas on Ray, or let those that run on the same Ray cluster serve this run: they
    load the run beside the old one and lose no request.

    Returns:
        The handle of the replicas; None if another process takes the requests already.

    Raises:
        P5Error: the run cannot be loaded; Ray does not start; the port is taken.
        ConfigError: Ray Serve is not installed.
    """
    # gRPC between processes: 30 % more requests a second than by references to objects.
    os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
    serve = need("ray.serve", "serve", "p5dist serve")
    if "://" not in service.run:
        service = replace(service, run=os.path.abspath(service.run))  # noqa: PTH100
    load(service.run, stage=service.stage)  # errors here, in words, and not in a replica
    # Ray runs its workers with niceness 15: whoever asks on this machine would starve the replicas.
    os.environ.setdefault("RAY_worker_niceness", "0")
    connect(Scale(address=service.address))
    serve.start(
        proxy_location="Disabled",
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    taken = _taken(service.host, service.port)
    if taken and NAME not in serve.status().applications:
        raise ConfigError(
            "no service can listen at this address", where="--host, --port",
            value=f"{service.host}:{service.port}", rule=taken,
            fix="end the process that listens there, or name another --port",
        )  # fmt: skip
    handle = serve.run(replicas(service), name=NAME, route_prefix=None)
    return None if taken else handle


def answer(service: Service, handle: Any, started: Callable[[], None]) -> None:
    """Take requests over HTTP until Ctrl-C or SIGTERM; then end the service after the requests that
    it is answering.

    Args:
        handle: of the replicas.
        started: called when requests can come.
    """
    import uvicorn
    import uvloop
    from ray import serve

    from p5dist.serving.app import make_app
    from p5dist.serving.front import Front

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

    async def run() -> None:
        front = Front(handle, service.batch, service.replicas)
        _keep_what_is_there()
        config = uvicorn.Config(
            make_app(front, _settings(service)), host=service.host, port=service.port,
            log_level="warning", timeout_graceful_shutdown=20, timeout_keep_alive=75,
        )  # fmt: skip
        await Server(config).serve()

    for sign in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it has ended
        signal.signal(sign, lambda *_: None)
    try:
        uvloop.run(run())
    finally:
        if service.address is None:
            serve.shutdown()
        else:
            serve.delete(NAME)  # others may serve on the cluster


def _taken(host: str, port: int) -> str | None:
    """Why nothing can listen at the address; None: it is free."""
    try:
        with socket.create_server((host, port), family=_family(host)):
            return None
    except OSError as e:
        return e.strerror or str(e)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
