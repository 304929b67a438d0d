"""The command line: one command a stage, no logic; a stage is imported when it is called."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from p5dist.errors import P5Error, StoppedError
from p5dist.redact import redact_text
from p5dist.submit.commands import cluster_app, jobs_app

STOPPED = 143
"""Exit code of a job that was asked to stop: that of a process ended by SIGTERM."""

app = typer.Typer(
    help="Pre-train one recommender on raw interaction logs, fine-tune, evaluate, recommend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
datasets_app = typer.Typer(help="Public data sets that p5dist knows.", invoke_without_command=True)
app.add_typer(datasets_app, name="datasets")
app.add_typer(jobs_app, name="jobs")
app.add_typer(cluster_app, name="cluster")

Job = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[a.b=1 …]", help="Settings that replace the file's.")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Throw away what the stage, and later ones, made before.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


@app.command()
def run(
    job: Job,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STAGE …] [a.b=1 …]", help="Stages (all) and settings."),
    ] = None,
    fresh: Fresh = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The stages of a job in order; complete ones are skipped, interrupted ones continue."""
    words = words or []
    _stages(
        job,
        [w for w in words if "=" not in w],
        [w for w in words if "=" in w],
        fresh=fresh,
        dry_run=dry_run,
        as_json=as_json,
    )


@app.command()
def prepare(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Raw logs → histories in sequence shards."""
    _stages(job, ["prepare"], overrides, fresh=fresh, as_json=as_json)


@app.command()
def pretrain(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Self-supervised training on the histories."""
    _stages(job, ["pretrain"], overrides, fresh=fresh, as_json=as_json)


@app.command()
def finetune(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Training on labelled interactions, task by task."""
    _stages(job, ["finetune"], overrides, fresh=fresh, as_json=as_json)


@app.command()
def evaluate(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Exact ranking over the whole catalogue beside the baselines."""
    _stages(job, ["evaluate"], overrides, fresh=fresh, as_json=as_json)


@app.command()
def recommend(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Lists for all users as Parquet."""
    _stages(job, ["recommend"], overrides, fresh=fresh, as_json=as_json)


@app.command()
def report(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """One HTML page about the run."""
    _stages(job, ["report"], overrides, fresh=fresh, as_json=as_json)


@app.command()
def submit(
    job: Job,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STAGE …] [a.b=1 …]", help="Stages (all) and settings."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Job server: http://HEAD:8265."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the job has ended.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Print its log, until it ends.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also where the same job has finished.")
    ] = False,
    image_has_package: Annotated[
        bool, typer.Option("--image-has-package", help="Send the job file only, no code.")
    ] = False,
    python: Annotated[
        str | None, typer.Option(help="Interpreter on the nodes; left out: that of Ray there.")
    ] = None,
    driver_cpus: Annotated[
        float, typer.Option(help="0: the driver is on the head node; else where they are free.")
    ] = 0.0,
    driver_memory_gb: Annotated[float, typer.Option(help="Memory that the driver reserves.")] = 0.0,
    render: Annotated[
        str | None,
        typer.Option(
            metavar="kuberay|raycluster|aws|slurm",
            help="Print the file for this scheduler; send nothing.",
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Container image with p5dist, for --render.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The same job on a Ray cluster; given twice, it runs once."""
    from p5dist import pipeline
    from p5dist.config import load_job
    from p5dist.submit import show
    from p5dist.submit.submission import Options

    words = words or []
    loaded = load_job(job, [w for w in words if "=" in w])
    stages = [w for w in words if "=" not in w]
    pipeline.select(loaded, stages)
    if render is not None:
        print(show.rendered(render, loaded, tuple(stages), image), end="")
        return
    options = Options(
        stages=tuple(stages),
        image_has_package=image_has_package,
        python=python,
        driver_cpus=driver_cpus,
        driver_memory=int(driver_memory_gb * 2**30),
        again=again,
    )
    code = show.submit(
        loaded, options, address, wait=wait, follow=follow, dry_run=dry_run, as_json=as_json
    )
    raise typer.Exit(code)


@app.command()
def config(job: Job, overrides: Overrides = None, as_json: Json = False) -> None:
    """The resolved job, checked; nothing runs."""
    from p5dist.config import dump_job, load_job

    loaded = load_job(job, overrides)
    print(loaded.model_dump_json(indent=2) if as_json else dump_job(loaded), end="")


@app.command()
def audit(
    job: Job,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STAGE …] [a.b=1 …]", help="Training stages (all) and settings."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove from the ledger that training took every row exactly once an epoch (ledger: true)."""
    from p5dist import audit as auditing
    from p5dist import pipeline
    from p5dist.config import load_job

    words = words or []
    loaded = load_job(job, [w for w in words if "=" in w])
    wanted = [s for s in pipeline.select(loaded, [w for w in words if "=" not in w])
              if s in loaded.trainings()]  # fmt: skip
    found = [auditing.audit(loaded, stage) for stage in wanted]
    if as_json:
        print(json.dumps({one.stage: one.as_json() for one in found}, indent=2))
    else:
        for one in found:
            print(one.text())
    raise typer.Exit(0 if all(one.exact for one in found) else 1)


@app.command()
def export(
    job: Job,
    out: Annotated[str, typer.Argument(metavar="OUT", help="The file to write, or its URL.")],
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="Left out: the last training.")] = None,
    step: Annotated[int | None, typer.Option(help="Left out: the best checkpoint.")] = None,
    as_json: Json = False,
) -> None:
    """The weights of a checkpoint as one safetensors file."""
    from p5dist import export as exporting
    from p5dist.config import load_job
    from p5dist.storage import Folder

    loaded = load_job(job, overrides)
    last = next(reversed(loaded.trainings()), "pretrain")
    made = exporting.export(loaded, stage or last, Folder.open(out), step)
    print(json.dumps(made, indent=2) if as_json else f"{made['file']}: {made['bytes']:,} bytes")


@app.command()
def plan(
    job: Job,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="One a device.")] = 8,
    machine: Annotated[str, typer.Option(help="A name of p5dist/plan/machines.yaml.")] = "h100x8",
    stage: Annotated[str | None, typer.Option(help="Left out: the first training.")] = None,
    interactions: Annotated[float | None, typer.Option(help="Such as 1e10.")] = None,
    users: Annotated[float | None, typer.Option(help="Left out: those that are prepared.")] = None,
    items: Annotated[float | None, typer.Option(help="Left out: those that are prepared.")] = None,
    as_json: Json = False,
) -> None:
    """Sharding, memory, traffic, time of a step on a cluster that is not there: computed."""
    from p5dist.config import load_job
    from p5dist.plan import show

    show.run(
        load_job(job, overrides), workers=workers, machine_name=machine, stage=stage,
        interactions=interactions, users=users, items=items, as_json=as_json,
    )  # fmt: skip


@app.command()
def status(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, its URL, or a job file.")
    ],
    as_json: Json = False,
) -> None:
    """How far a run is, from its folder: stage, step, rate, time left, checkpoint, last error."""
    from p5dist import status as reader

    reader.run(run, as_json)


@app.command()
def doctor(
    storage: Annotated[
        str, typer.Option(help="A folder or URL that runs will be written to.")
    ] = "runs",
    as_json: Json = False,
) -> None:
    """Versions and whether they fit, hardware, Ray, storage: each line ok, or what to do."""
    from p5dist import doctor as checks

    raise typer.Exit(checks.run(storage, as_json))


@app.command()
def synth(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder or URL.")],
    interactions: Annotated[float, typer.Option(help="Rows of the log, such as 1e8.")],
    users: Annotated[float | None, typer.Option(help="Left out: a 50th of the rows.")] = None,
    items: Annotated[float | None, typer.Option(help="Left out: a 100th of the rows.")] = None,
    clusters: Annotated[float | None, typer.Option(help="Left out: the root of the items.")] = None,
    days: Annotated[int, typer.Option(help="Time that the log covers.")] = 365,
    file_rows: Annotated[float, typer.Option(help="About how many rows a file has.")] = 2e6,
    seed: Annotated[int, typer.Option(help="Another seed, another log.")] = 1,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    as_json: Json = False,
) -> None:
    """A synthetic log of any size as Parquet, with the best score that a model can reach."""
    from p5dist.prepare import synthetic

    process = synthetic.plan(
        interactions=interactions, users=users, items=items, clusters=clusters, days=days,
        file_rows=file_rows, seed=seed,
    )  # fmt: skip
    synthetic.show(out, synthetic.run(out, process, address=address), as_json)


@datasets_app.callback()
def datasets(context: typer.Context, as_json: Json = False) -> None:
    """Public data sets it knows: where from, licence, size."""
    if context.invoked_subcommand is None:
        from p5dist import datasets as known

        known.show(as_json)


@datasets_app.command()
def get(name: Annotated[str, typer.Argument(help="Name of the data set.")]) -> None:
    """Fetch a data set into the user's cache folder."""
    from p5dist import datasets as known

    print(known.get(name))


def _stages(
    path: Path,
    stages: list[str],
    overrides: list[str] | None,
    *,
    fresh: bool,
    as_json: bool,
    dry_run: bool = False,
) -> None:
    from p5dist import pipeline
    from p5dist.config import load_job

    job = load_job(path, overrides)
    if dry_run:
        steps = pipeline.plan(job, stages)
        if as_json:
            print(json.dumps({step.stage: step.state for step in steps}))
        else:
            for step in steps:
                print(f"{step.stage:<24}{step.state}")
        return
    results = pipeline.run(job, stages, fresh=fresh)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        _summary(job, results)


def _summary(job: Any, results: dict[str, Any]) -> None:
    """The tables and paths that a person wants to see at the end."""
    from p5dist.console import console
    from p5dist.storage import RunFolder

    folder = RunFolder.of(job.storage, job.name)
    if "evaluate" in results:
        from p5dist.evaluate.table import table

        console.print(table(results["evaluate"]))
    if "recommend" in results:
        console.print(f"recommendations: {folder.recommend}")
    if "report" in results:
        console.print(f"report: {folder.report}")


def main() -> None:
    """Entry point: errors of p5dist are a message and exit code 1, not a traceback."""
    try:
        app()
    except StoppedError as e:
        print(redact_text(str(e)), file=sys.stderr)
        sys.exit(STOPPED)
    except P5Error as e:
        if os.environ.get("P5DIST_TRACEBACK"):
            raise
        print(redact_text(f"{type(e).__name__}: {e}"), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
