"""The command line; the other files of :mod:`p5dist.cli` hold the commands, grouped by subject. A
stage is imported when its command runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from p5dist import __version__
from p5dist.cli import cluster, data, runs, serving, stages
from p5dist.cli.arguments import SETUP, Json
from p5dist.environment.console import no_colours, show_log
from p5dist.environment.redact import redact_text
from p5dist.errors import InstallError, P5Error, StoppedError

STOPPED = 143
"""Exit code of a job that was asked to stop: the code of a process ended by SIGTERM."""

_TRAINS = ("torch", "fbgemm_gpu", "torchrec", "ray", "safetensors", "tensorboard")

app = typer.Typer(
    help="Pre-train one recommender on raw interaction logs, fine-tune, evaluate, recommend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for commands in (stages, runs, serving, data, cluster):
    app.add_typer(commands.app)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


def _no_colour(wanted: bool) -> None:
    if wanted:
        no_colours()


@app.callback()
def options(
    no_color: Annotated[
        bool,
        typer.Option(
            "--no-color",
            callback=_no_colour,
            is_eager=True,
            help="No colours; so does the environment variable NO_COLOR.",
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Pre-train one recommender on raw interaction logs, fine-tune, evaluate, recommend."""


setup = typer.Typer()


@setup.command(rich_help_panel=SETUP)
def doctor(
    storage: Annotated[
        str, typer.Option(help="A folder or URL that runs will be written to.")
    ] = "runs",
    as_json: Json = False,
) -> None:
    """Check versions, hardware, Ray and storage: each line says ok, or what to do."""
    from p5dist.environment import doctor as checks

    raise typer.Exit(checks.run(storage, as_json))


app.add_typer(setup)


def main() -> None:
    """Entry point: errors of p5dist are a message and exit code 1, not a traceback."""
    show_log()
    try:
        _run()
    except StoppedError as e:
        print(redact_text(str(e)), file=sys.stderr)
        sys.exit(STOPPED)
    except P5Error as e:
        if os.environ.get("P5DIST_TRACEBACK"):
            raise
        print(redact_text(f"{type(e).__name__}: {e}"), file=sys.stderr)
        sys.exit(1)


def _run() -> None:
    try:
        app()
    except ModuleNotFoundError as e:
        package = (e.name or "").partition(".")[0]
        if package not in _TRAINS:
            raise
        raise InstallError(
            "this command needs the packages that train", where=" ".join(sys.argv[1:2]),
            value=f"{package} is not installed", rule=f"they are {', '.join(_TRAINS)}",
            fix="pip install 'p5dist[cpu]', or p5dist[gpu]; README has all steps",
        ) from e  # fmt: skip


if __name__ == "__main__":
    main()
