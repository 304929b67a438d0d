"""The commands about a job and its run folder; they run no stages."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from p5dist.cli.arguments import (
    CLUSTER,
    DATA,
    LOOK,
    USE,
    Job,
    Json,
    Overrides,
    Words,
    load_checked,
    split_words,
)

app = typer.Typer()


@app.command(rich_help_panel=LOOK)
def config(job: Job, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check the job and print it with all defaults, and name settings without effect on stderr; no
    stage runs."""
    from p5dist.config import dump_job

    loaded = load_checked(job, overrides)
    print(loaded.model_dump_json(indent=2) if as_json else dump_job(loaded), end="")


@app.command(rich_help_panel=LOOK)
def status(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, its URL, or a job file.")
    ],
    as_json: Json = False,
) -> None:
    """The progress of a run, from its folder: stage, step, rate, time left, checkpoint, error."""
    from p5dist.observe import status as reader

    reader.run(run, as_json)


@app.command(rich_help_panel=LOOK)
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN …",
            help="Run folders, their URLs or job files; RUN:popularity is a baseline, A,B several "
            "seeds of one side.",
        ),
    ],
    page: Annotated[
        str | None, typer.Option(metavar="FILE.html", help="Also write a page there.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Resamples for the intervals; 0: no intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 1,
    as_json: Json = False,
) -> None:
    """Compare evaluated runs on the same targets: differences to the first run with intervals."""
    from rich.console import Console

    from p5dist.report import compare_show
    from p5dist.report.compare import compare_runs
    from p5dist.storage import Folder

    found = compare_runs(runs, resamples=resamples, seed=seed)
    if page is not None:
        Folder.open(page).write_text(compare_show.page(found))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        Console(highlight=False).print(compare_show.table(found))


@app.command(rich_help_panel=LOOK)
def privacy(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its URL.")],
    stage: Annotated[
        str | None, typer.Option(help="Training stage; left out: the last that ranks.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="About so many are asked about.")] = 5000,
    shadows: Annotated[
        int, typer.Option(help="Also train so many runs on halves of the users, and attack them.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """How much a model remembers of its users: AUC of a membership-inference attack."""
    from p5dist import shadows as shadow_runs
    from p5dist.inference.loading import load
    from p5dist.inference.membership import attack
    from p5dist.storage import Folder, RunFolder

    if shadows:
        shadow_runs.check_number(shadows)
    loaded, root = load(run, stage=stage), Folder.open(run)
    found = attack(loaded.job, RunFolder.at(root), loaded.ranking_stage, users=users)
    if shadows:
        job = loaded.job.model_copy(update={"name": root.name, "storage": str(root.above)})
        shadow_runs.train(job, loaded.ranking_stage, shadows)
        found["shadows"] = shadow_runs.measure(job, loaded.ranking_stage, shadows, users=users)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    control = found["control"]
    print(
        f"{found['stage']}, {found['users']:,} users: an interaction that was trained on ranks "
        f"before one that was not with probability {found['auc']:.3f} "
        f"({found['low']:.3f} to {found['high']:.3f}); by popularity, which remembers nobody, "
        f"{control['auc']:.3f} ({control['low']:.3f} to {control['high']:.3f})"
    )
    if shadows:
        calibrated = found["shadows"]
        print(
            f"{shadows} runs on halves of the users: who has trained the others tells a user that "
            f"took part from one that did not with probability {calibrated['auc']:.3f} "
            f"({calibrated['low']:.3f} to {calibrated['high']:.3f})"
        )


@app.command(rich_help_panel=DATA)
def forget(
    job: Job,
    users: Annotated[
        str,
        typer.Option(metavar="FILE", help="Ids of users in the log: one a line, or a table."),
    ],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Discard checkpoints that have seen them, to train again."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove people from all runs of a job, and say what its models still hold of them."""
    from p5dist.config import load_job
    from p5dist.forgetting import forget as forgetting

    found = forgetting.forget(load_job(job, overrides), users, dry_run=dry_run, retrain=retrain)
    print(json.dumps(found, indent=2) if as_json else "\n".join(forgetting.in_words(found)))


@app.command(rich_help_panel=LOOK)
def audit(
    job: Job,
    words: Words = None,
    as_json: Json = False,
) -> None:
    """Prove from the ledger (ledger: true) that training took every row exactly once per epoch."""
    from p5dist.config import load_job
    from p5dist.observe import audit as auditing
    from p5dist.observe.stages import select

    stages, overrides = split_words(words)
    loaded = load_job(job, overrides)
    wanted = [s for s in select(loaded, stages) if s in loaded.trainings()]
    found = [auditing.audit(loaded, stage) for stage in wanted]
    if as_json:
        print(json.dumps({one.stage: one.as_json() for one in found}, indent=2))
    else:
        for one in found:
            print(one.text())
    raise typer.Exit(0 if all(one.exact for one in found) else 1)


@app.command(rich_help_panel=USE)
def export(
    job: Job,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The file or folder to write, or its URL.")
    ],
    overrides: Overrides = None,
    form: Annotated[
        Literal["safetensors", "torch", "onnx", "faiss"],
        typer.Option(
            "--format",
            help="safetensors: all weights in one file; torch and onnx: a folder that serves the "
            "model without p5dist; faiss: a folder with an index of the item vectors.",
        ),
    ] = "safetensors",
    stage: Annotated[
        str | None, typer.Option(help="Training stage; left out: the last one that fits.")
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(help="safetensors: step of the checkpoint; left out: the best checkpoint."),
    ] = None,
    index: Annotated[
        Literal["flat", "int8", "hnsw", "ivfpq"], typer.Option(help="faiss: kind of the index.")
    ] = "hnsw",
    licence: Annotated[
        str | None, typer.Option("--license", help="torch and onnx: licence of the model card.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a trained model in a form that needs no p5dist."""
    from p5dist.config import load_job
    from p5dist.storage import Folder

    loaded, place = load_job(job, overrides), Folder.open(out)
    if form == "safetensors":
        from p5dist.inference.export.weights import export as write

        last = next(reversed(loaded.trainings()), "pretrain")
        made = write(loaded, stage or last, place, step)
        said = f"{made['file']}: {made['bytes']:,} bytes"
    elif form == "faiss":
        from p5dist.inference.export.index import export_index

        made = export_index(loaded, stage, place, kind=index)
        said = (
            f"{made['folder']}: {made['items']:,} items, recall@10 {made['recall@10']:.4f}, "
            f"{made['ms_a_query']:.3f} ms a query (exact {made['exact_ms_a_query']:.3f} ms)"
        )
        if "ndcg@10" in made:
            said += f", NDCG@10 {made['ndcg@10']:.4f} (exact {made['exact_ndcg@10']:.4f})"
    else:
        from p5dist.inference.export.package import export_package

        made = export_package(loaded, stage, place, form=form, licence=licence)
        said = f"{made['folder']}: {', '.join(made['files'])}; as the live model up to "
        said += f"{made['difference']:.1e}"
    print(json.dumps(made, indent=2) if as_json else said)


@app.command(rich_help_panel=CLUSTER)
def plan(
    job: Job,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers, one per device.")] = 8,
    machine: Annotated[
        str, typer.Option(help="Machine type, a name in capacity/machines.yaml.")
    ] = "h100x8",
    stage: Annotated[
        str | None, typer.Option(help="Training stage; left out: the first training.")
    ] = None,
    interactions: Annotated[
        float | None,
        typer.Option(help="Number of interactions, such as 1e10; left out: of the prepared data."),
    ] = None,
    users: Annotated[
        float | None, typer.Option(help="Number of users; left out: of the prepared data.")
    ] = None,
    items: Annotated[
        float | None, typer.Option(help="Number of items; left out: of the prepared data.")
    ] = None,
    histories: Annotated[
        float | None,
        typer.Option(
            help="Number of histories, where sessions or windows cut users; left out: of the "
            "prepared data."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute sharding, memory, traffic and step time on a larger cluster, without running."""
    from p5dist.capacity import show
    from p5dist.config import load_job

    show.run(
        load_job(job, overrides), workers=workers, machine_name=machine, stage=stage,
        interactions=interactions, users=users, items=items, histories=histories, as_json=as_json,
    )  # fmt: skip
