"""The commands that run stages; a stage is imported when its command runs."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from p5dist.cli.arguments import (
    RUN,
    STAGES,
    Fresh,
    Job,
    Json,
    Overrides,
    Words,
    load_checked,
    split_words,
)

app = typer.Typer()


@app.command(rich_help_panel=RUN)
def run(
    job: Job,
    words: Words = None,
    fresh: Fresh = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the states of the stages; run nothing.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N | A,B,…",
            help="Train with N seeds, or with these, on one prepared data set: runs NAME-seed-K, "
            "and the metrics over all seeds in NAME-seeds.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the stages of a job in order; skip complete stages, continue interrupted ones."""
    stages, overrides = split_words(words)
    if seeds is not None:
        _seeds(job, stages, overrides, seeds, fresh=fresh, dry_run=dry_run, as_json=as_json)
        return
    _stages(job, stages, overrides, fresh=fresh, dry_run=dry_run, as_json=as_json)


@app.command(rich_help_panel=RUN)
def advance(
    job: Job,
    overrides: Overrides = None,
    files: Annotated[
        int | None,
        typer.Option(min=1, help="The most new files of a period, in the order of the log."),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="A period of its own for every --files new files.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the new files and the stages; run nothing.")
    ] = False,
) -> None:
    """Go on from a trained run with the new files of its log: run NAME-period-0001, and so on."""
    from p5dist.advance import next_period
    from p5dist.pipeline import run as run_stages

    loaded, done = load_checked(job, overrides), 0
    while (period := next_period(loaded, files or (1 if each else None))) is not None:
        more = f" and {len(period.files) - 1:,} more" if len(period.files) > 1 else ""
        print(f"{period.job.name}: {period.files[0]}{more}")
        if dry_run:
            _dry_run(period.job, [], fresh=False, as_json=False)
            return
        with redirect_stdout(sys.stderr):  # Ray prints the output of its nodes
            results = run_stages(period.job, [], fresh=period.fresh)
        _summary(period.job, results)
        done += 1
        if not each:
            return
    if not done:
        print(f"{loaded.name}: no new file of the log")


@app.command(rich_help_panel=RUN)
def tune(
    job: Job,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=choice(…) …",
            help="Ranges: choice(a,b), uniform(a,b), loguniform(a,b), randint(a,b), "
            "lograndint(a,b); and settings a.b=1 that replace settings of the job file.",
        ),
    ],
    trials: Annotated[int, typer.Option(min=1, help="Trials, the job as it is among them.")] = 20,
    metric: Annotated[
        str | None,
        typer.Option(help="Of the validations; left out: of the last stage that has some."),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Trials at the same time; left out: as many as fit.")
    ] = None,
    algorithm: Annotated[
        Literal["random", "optuna"], typer.Option(help="What draws the settings.")
    ] = "random",
    all_steps: Annotated[
        bool, typer.Option("--all-steps", help="Train every trial to its end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search settings by validation: every trial is a run, poor ones stop early."""
    from p5dist.environment.console import console
    from p5dist.tuning import search
    from p5dist.tuning.show import table
    from p5dist.tuning.space import parse_space

    space = parse_space([word for word in words if "(" in word.partition("=")[2]])
    loaded = load_checked(job, [word for word in words if "(" not in word.partition("=")[2]])
    with redirect_stdout(sys.stderr):  # Ray prints the output of its nodes
        result = search.run(
            loaded, space, trials=trials, metric=metric, at_once=at_once, algorithm=algorithm,
            stop_early=not all_steps,
        )  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console.print(table(result))
    console.print(f"the job of the best trial: {search.folder_of(loaded)}/best.yaml")


@app.command(rich_help_panel=STAGES)
def prepare(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Raw logs → histories in sequence shards."""
    _stages(job, ["prepare"], overrides, fresh=fresh, as_json=as_json)


@app.command(rich_help_panel=STAGES)
def pretrain(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Self-supervised training on the histories."""
    _stages(job, ["pretrain"], overrides, fresh=fresh, as_json=as_json)


@app.command(rich_help_panel=STAGES)
def finetune(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Training on labelled interactions, task by task."""
    _stages(job, ["finetune"], overrides, fresh=fresh, as_json=as_json)


@app.command(rich_help_panel=STAGES)
def evaluate(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Exact metrics of model and baselines over the whole catalogue."""
    _stages(job, ["evaluate"], overrides, fresh=fresh, as_json=as_json)


@app.command(rich_help_panel=STAGES)
def recommend(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """Recommendations for all users as Parquet."""
    _stages(job, ["recommend"], overrides, fresh=fresh, as_json=as_json)


@app.command(rich_help_panel=STAGES)
def report(
    job: Job, overrides: Overrides = None, fresh: Fresh = False, as_json: Json = False
) -> None:
    """One HTML page about the run."""
    _stages(job, ["report"], overrides, fresh=fresh, as_json=as_json)


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

    job = load_checked(path, overrides)
    if dry_run:
        _dry_run(job, stages, fresh=fresh, as_json=as_json)
        return
    with redirect_stdout(sys.stderr):  # Ray prints the output of its nodes
        results = pipeline.run(job, stages, fresh=fresh)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        _summary(job, results)


def _dry_run(job: Any, stages: list[str], *, fresh: bool, as_json: bool) -> None:
    from p5dist.inference.lists.plan import plan_lines
    from p5dist.observe.stages import progress
    from p5dist.storage import RunFolder

    folder = RunFolder.of_job(job)
    steps = progress(job, folder, stages, fresh=fresh)
    if as_json:
        print(json.dumps({step.stage: step.state for step in steps}))
        return
    states = {step.stage: step.state for step in steps}
    for step in steps:
        notes = list(step.notes)
        if step.stage == "recommend" and step.state != "complete":
            notes += plan_lines(job, folder, prepared=states.get("prepare") in (None, "complete"))
        print("\n  ".join([f"{step.stage:<24}{step.state}", *notes]))


def _seeds(
    path: Path,
    stages: list[str],
    overrides: list[str] | None,
    wanted: str,
    *,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from p5dist import seeds
    from p5dist.environment.console import console

    job = load_checked(path, overrides)
    numbers = seeds.parse_seeds(wanted, job)
    if dry_run:
        found = seeds.states(job, stages, numbers, fresh=fresh)
        if as_json:
            listed = {run: {s.stage: s.state for s in steps} for run, steps in found.items()}
            print(json.dumps(listed))
            return
        for run_name, steps in found.items():
            print(run_name)
            for step in steps:
                print(
                    "\n".join(
                        [f"  {step.stage:<22}{step.state}", *(f"    {n}" for n in step.notes)]
                    )
                )
        return
    with redirect_stdout(sys.stderr):  # Ray prints the output of its nodes
        result = seeds.run(job, stages, numbers, fresh=fresh)
    if as_json:
        print(json.dumps(result, indent=2))
    elif result is not None:
        console.print(seeds.table(result))
        console.print(f"all seeds: {seeds.folder_of(job)}")


def _summary(job: Any, results: dict[str, Any]) -> None:
    """Print the tables and paths of the results."""
    from p5dist.environment.console import console
    from p5dist.storage import RunFolder

    folder = RunFolder.of_job(job)
    if "evaluate" in results:
        from p5dist.inference.evaluate.table import table

        console.print(table(results["evaluate"]))
    if "recommend" in results:
        console.print(f"recommendations: {folder.recommend}")
    if "report" in results:
        console.print(f"report: {folder.report}")
