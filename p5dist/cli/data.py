"""The commands about public and synthetic data sets."""

from __future__ import annotations

from typing import Annotated

import typer

from p5dist.cli.arguments import Json

app = typer.Typer()
datasets_app = typer.Typer(help="Public data sets that p5dist knows.", invoke_without_command=True)
app.add_typer(datasets_app, name="datasets")


@datasets_app.callback()
def datasets(context: typer.Context, as_json: Json = False) -> None:
    """List the known public data sets: source, licence, size."""
    if context.invoked_subcommand is None:
        from p5dist.datasets import public as known

        known.show(as_json)


@datasets_app.command()
def get(name: Annotated[str, typer.Argument(help="Name of the data set.")]) -> None:
    """Fetch a data set into the user's cache folder."""
    from p5dist.datasets import public as known

    print(known.get(name))


@app.command()
def synth(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder or URL.")],
    interactions: Annotated[float, typer.Option(help="Rows of the log, such as 1e8.")],
    users: Annotated[
        float | None, typer.Option(help="Number of users; left out: rows / 50.")
    ] = None,
    items: Annotated[
        float | None, typer.Option(help="Number of items; left out: rows / 100.")
    ] = None,
    clusters: Annotated[
        float | None, typer.Option(help="Number of clusters; left out: √items.")
    ] = None,
    days: Annotated[int, typer.Option(help="Days that the log covers.")] = 365,
    file_rows: Annotated[float, typer.Option(help="Approximate rows per file.")] = 2e6,
    seed: Annotated[int, typer.Option(help="Seed of the random log.")] = 1,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    as_json: Json = False,
) -> None:
    """Write a synthetic log of any size as Parquet, with the best score that a model can reach."""
    from p5dist.datasets import synthetic

    process = synthetic.plan(
        interactions=interactions, users=users, items=items, clusters=clusters, days=days,
        file_rows=file_rows, seed=seed,
    )  # fmt: skip
    synthetic.show(out, synthetic.run(out, process, address=address), as_json)
