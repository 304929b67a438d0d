"""The commands about public and synthetic data sets."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from p5dist.cli.arguments import DATA, Job, Json

app = typer.Typer()
datasets_app = typer.Typer(help="Public data sets that p5dist knows.", invoke_without_command=True)
app.add_typer(datasets_app, name="datasets", rich_help_panel=DATA)


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


@app.command(rich_help_panel=DATA)
def pseudonym(
    job: Job,
    ids: Annotated[list[str], typer.Argument(metavar="ID …", help="Ids of users in the log.")],
) -> None:
    """Print the pseudonyms of users under the key of a job (prepare.privacy.pseudonyms)."""
    from p5dist.config import load_job
    from p5dist.errors import ConfigError
    from p5dist.prepare.pseudonyms import key_of, pseudonyms

    variable, where = load_job(job).prepare.privacy.pseudonyms, "prepare.privacy.pseudonyms"
    if variable is None:
        raise ConfigError(
            "the job has no pseudonyms", where=where, rule="the environment variable with the key",
            fix="nothing to do: ids of users are written as in the log",
        )  # fmt: skip
    for one, made in zip(ids, pseudonyms(ids, key_of(variable, where)), strict=True):
        print(f"{one}\t{made}")


@app.command(rich_help_panel=DATA)
def embed(
    source: Annotated[str, typer.Argument(metavar="TABLE", help="A file or a folder of files.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder or URL.")],
    column: Annotated[list[str], typer.Option(help="Column with text; may be given repeatedly.")],
    model: Annotated[
        str, typer.Option(help="Folder, or name, of a model of sentence-transformers.")
    ] = "all-MiniLM-L6-v2",
    vector: Annotated[str, typer.Option(help="Name of the new column.")] = "vector",
    form: Annotated[
        Literal["parquet", "csv", "tsv", "jsonl"] | None,
        typer.Option("--format", help="Left out: by the name of the file."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts encoded at once.")] = 64,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Processes; left out: one a core or a GPU.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    as_json: Json = False,
) -> None:
    """Write a table again as Parquet, with vectors of its texts (the extra embed)."""
    from p5dist.datasets import embedding

    wanted = embedding.Embedding(tuple(column), model, vector, batch_size)
    found = embedding.run(source, out, wanted, form=form, actors=actors, address=address)
    if as_json:
        print(json.dumps(found))


@app.command(rich_help_panel=DATA)
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
