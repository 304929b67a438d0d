"""The command that serves a trained run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from p5dist.cli.arguments import USE

app = typer.Typer()


@app.command(rich_help_panel=USE)
def serve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its URL.")],
    stage: Annotated[
        str | None, typer.Option(help="Stage whose model ranks; left out: the last that ranks.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that hold the model.")] = 1,
    cpus: Annotated[float, typer.Option(min=0.1, help="CPUs of a replica.")] = 1.0,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, help="Requests a second; left out: no limit."),
    ] = None,
    most_bytes: Annotated[
        int, typer.Option(min=1024, help="Largest body of a request, in bytes.")
    ] = 4 << 20,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to serve on (auto: the one on this machine). If p5dist serves there "
            "already, its replicas change to RUN, and this command ends."
        ),
    ] = None,
) -> None:
    """Answer requests for recommendations over HTTP, on loopback unless --host says otherwise.

    Callers need the token that the environment variable P5DIST_SERVE_TOKEN has, if it is set.
    """
    from p5dist.serving.deploy import LOOPBACK, Service, answer, deploy

    service = Service(
        run, stage, host, port, replicas, cpus, most_bytes=most_bytes, rate=rate, address=address
    )
    if host not in LOOPBACK:
        print(f"note: {host} can be reached from other machines", file=sys.stderr)
    handle = deploy(service)
    if handle is None:
        print(f"the service on this Ray cluster answers with {run} now", flush=True)
        return
    url = f"http://{host}:{port}"
    answer(
        service, handle,
        lambda: print(f"{run} is served at {url}; its API is described at {url}/docs", flush=True),
    )  # fmt: skip
