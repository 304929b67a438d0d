"""``p5dist run JOB --seeds 5``: one job with several seeds of training, on one prepared data set.

The job is prepared once, as the run NAME. Each seed is a run NAME-seed-K that uses the data of NAME
(``data_of``) and differs from the job in ``train_seed`` only, so that split, targets and evaluated
users are the same for all seeds. NAME-seeds/result.json says what the metrics are over all seeds.
"""

from __future__ import annotations

import logging
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p5dist import pipeline
from p5dist.config import RunConfig
from p5dist.environment.provenance import provenance
from p5dist.errors import ConfigError
from p5dist.observe.stages import Step, marker, progress, select
from p5dist.ranking import results
from p5dist.report.compare import compare_sides
from p5dist.report.evaluated import MODEL, POOLED, RANK, Side, read_evaluated
from p5dist.storage import Folder, RunFolder

_BASELINES = 3
"""Baselines of one table, so that it fits into 80 columns."""

Numbers = dict[str, Any]
"""value (mean over the seeds), deviation (standard deviation with n - 1; None for one seed), least,
greatest, runs (by seed); low and high of the interval over users and seeds, if there is one."""


def parse_seeds(text: str, job: RunConfig) -> list[int]:
    """The seeds of training that ``--seeds`` names.

    Args:
        text: a number n: the seed of the job and the n - 1 after it; or a list, such as ``1,2,3``
            (``7,`` is the list of 7).

    Raises:
        ConfigError: neither; a seed that is named twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
        listed = True
    else:
        listed = len(parts) > 1
    if not all(re.fullmatch(r"[0-9]{1,18}", part) for part in parts):
        raise _wrong_seeds(text, "whole numbers")
    numbers = [int(part) for part in parts]
    if not listed:
        numbers = [job.training_seed + n for n in range(numbers[0])]
    if not numbers or len(set(numbers)) < len(numbers):
        raise _wrong_seeds(text, "at least one seed, each once")
    return numbers


def job_of(job: RunConfig, seed: int) -> RunConfig:
    """The job of one seed."""
    return job.model_copy(
        update={
            "name": f"{job.name}-seed-{seed}",
            "train_seed": seed,
            "data_of": job.data_of or job.name,
        }
    )


def folder_of(job: RunConfig) -> Folder:
    """The folder of the result over all seeds."""
    return Folder.open(job.storage) / f"{job.name}-seeds"


def states(
    job: RunConfig, wanted: list[str], seeds: Sequence[int], *, fresh: bool = False
) -> dict[str, list[Step]]:
    """By run, in order: the states of the chosen stages."""
    own, others = _stages(job, wanted)
    found = {}
    if own:
        found[job.name] = progress(job, RunFolder.of_job(job), own, fresh=fresh)
    for seed in seeds if others else ():
        one = job_of(job, seed)
        found[one.name] = progress(one, RunFolder.of_job(one), others, fresh=fresh)
    return found


def run(
    job: RunConfig, wanted: list[str], seeds: Sequence[int], *, fresh: bool = False
) -> dict[str, Any] | None:
    """Run the chosen stages for every seed, one after the other, and write the result over all
    seeds. Seeds whose chosen stages are complete are skipped, interrupted ones continue.

    Args:
        wanted: stages; empty: all.
        fresh: as :func:`p5dist.pipeline.run`, for every run.

    Returns:
        The content of NAME-seeds/result.json; None if a seed has not been evaluated.
    """
    log = logging.LoggerAdapter(logging.getLogger("p5dist"), {"run": job.name})
    own, others = _stages(job, wanted)
    (folder_of(job) / "result.json").remove()
    if own:
        pipeline.run(job, own, fresh=fresh)
    for number, seed in enumerate(seeds if others else (), 1):
        one = job_of(job, seed)
        steps = progress(one, RunFolder.of_job(one), others, fresh=fresh)
        if all(step.state == "complete" for step in steps):
            log.info(f"seed {seed} ({number}/{len(seeds)}) complete, skipped")
            continue
        log.info(f"seed {seed} ({number}/{len(seeds)}): {one.name}")
        pipeline.run(one, others, fresh=fresh)
    jobs = [job_of(job, seed) for seed in seeds]
    if not all(marker(RunFolder.of_job(one), "evaluate").exists() for one in jobs):
        return None
    result = summarize(job, jobs)
    (folder_of(job) / "result.json").write_json(result)
    return result


def summarize(job: RunConfig, jobs: Sequence[RunConfig]) -> dict[str, Any]:
    """The metrics of evaluated runs that differ in the seed of training.

    Returns:
        As evaluate/result.json, with Numbers instead of values; ``pooled``: names of the runs;
        ``seeds``; ``method``.
    """
    side = Side(job.name, tuple(read_evaluated(RunFolder.of_job(one).root) for one in jobs))
    found = [run.result for run in side.runs]
    intervals = _intervals(side, 0 if job.evaluate is None else job.evaluate.bootstrap)
    tasks: dict[str, Any] = {}
    for path in found[0].get("tasks", {}):
        own = [one["tasks"][path] for one in found]
        tasks[path] = {
            **own[0],
            "metrics": _metrics([one["metrics"] for one in own], intervals.get(path, {})),
            "baselines": _baselines([one["baselines"] for one in own], {}),
        }
    metrics = _metrics([one["metrics"] for one in found], intervals.get(MODEL, {}))
    for task in tasks.values():  # as in evaluate/result.json, the last task wins
        metrics |= task["metrics"]
    return {
        POOLED: [one.name for one in jobs],
        "seeds": side.seeds,
        "metrics": metrics,
        "baselines": _baselines([one["baselines"] for one in found], intervals),
        "tasks": tasks,
        "metric_info": found[0].get("metric_info", {}),
        "protocol": found[0]["protocol"],
        "method": "95 % percentile interval of resamples of users and seeds "
        "(Owen 2007; S - 1 of S seeds are drawn, Rao and Wu 1988)",
        **provenance(
            job, "evaluate", data=found[0]["data_fingerprint"],
            seconds=sum(one["seconds"] for one in found),
        ),
    }  # fmt: skip


def _stages(job: RunConfig, wanted: list[str]) -> tuple[list[str], list[str]]:
    """The chosen stages of the run NAME, which has the data, and those of each seed."""
    stages = select(job, wanted)
    return [s for s in stages if s == "prepare"], [s for s in stages if s != "prepare"]


def _intervals(side: Side, resamples: int) -> dict[str, dict[str, tuple[float, float]]]:
    """low and high of the metrics that targets.parquet gives, by ``model`` (ranking), baseline, and
    path of a rating task."""
    columns = set.intersection(*(set(run.targets.column_names) for run in side.runs))
    rankers = sorted(n.partition(":")[2] for n in columns if n.startswith(f"{RANK}:"))
    if not resamples or not any(n == RANK or n.endswith("predicted") for n in columns):
        return {}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    only = next(iter(side.runs[0].result.get("tasks", {})), MODEL)
    for name in [MODEL, *rankers]:
        one = side if name == MODEL else side.ranked_by(name)
        for metric in compare_sides([one], resamples=resamples, segments=False)["metrics"]:
            path = name if metric["title"] == results.RANKING else metric["task"] or only
            measured = metric["sides"][0]
            found.setdefault(path, {})[metric["metric"]] = measured["low"], measured["high"]
    return found


def _metrics(
    found: Sequence[Mapping[str, Mapping[str, float | None]]],
    intervals: Mapping[str, tuple[float, float]],
) -> dict[str, Numbers]:
    """By metric that all runs have."""
    keys = [key for key in found[0] if all(key in one for one in found)]
    return {key: _numbers((one[key]["value"] for one in found), intervals.get(key)) for key in keys}


def _baselines(
    found: Sequence[Mapping[str, Mapping[str, float | None]]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> dict[str, dict[str, Numbers]]:
    return {
        name: {
            key: _numbers((one[name][key] for one in found), intervals.get(name, {}).get(key))
            for key in found[0][name]
            if all(key in one[name] for one in found)
        }
        for name in found[0]
        if all(name in one for one in found)
    }


def _numbers(values: Iterable[float | None], interval: tuple[float, float] | None) -> Numbers:
    runs = [value for value in values if value is not None]
    low, high = interval or (None, None)
    return {
        "value": statistics.fmean(runs) if runs else None,
        "low": low,
        "high": high,
        "deviation": statistics.stdev(runs) if len(runs) > 1 else None,
        "least": min(runs, default=None),
        "greatest": max(runs, default=None),
        "runs": runs,
    }


def table(result: Mapping[str, Any]) -> Group:
    """The metrics over all seeds for the terminal.

    Args:
        result: of :func:`run`.
    """
    found: list[Table | Text] = []
    for group in results.groups(result):
        title = f"{group.title}, {len(result['seeds'])} seeds"
        shown = _table(title, "mean", "low – high", "deviation", "least", "greatest")
        for key, numbers in group.metrics.items():
            low, high = numbers["low"], numbers["high"]
            cells = [_text(numbers[name]) for name in ("deviation", "least", "greatest")]
            interval = "" if low is None or high is None else f"{_text(low)} – {_text(high)}"
            shown.add_row(key, _text(numbers["value"]), interval, *cells)
        names = list(group.baselines)
        parts = [names[at : at + _BASELINES] for at in range(0, len(names), _BASELINES)]
        found += [shown, *(_baselines_table(title, group, part) for part in parts)]
    found.append(Text(f"seeds {', '.join(map(str, result['seeds']))}; {result['method']}"))
    return Group(*found)


def _baselines_table(title: str, group: results.Group, names: Sequence[str]) -> Table:
    """Mean and deviation of some baselines."""
    shown = _table(f"{title}: baselines, mean ± deviation", *names)
    for key in group.metrics:
        others: list[Any] = [group.baselines[name].get(key) or {} for name in names]
        pairs = [[_text(one.get(part)) for part in ("value", "deviation")] for one in others]
        shown.add_row(key, *(" ± ".join(filter(None, pair)) for pair in pairs))
    return shown


def _table(title: str, *columns: str) -> Table:
    shown = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    shown.add_column("metric", no_wrap=True)
    for name in columns:
        shown.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    return shown


def _text(value: float | None) -> str:
    """Four decimals, fewer of large numbers such as popularity@10."""
    if value is None:
        return ""
    return f"{value:.{4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0}f}"


def _wrong_seeds(text: str, rule: str) -> ConfigError:
    return ConfigError(
        "these are no seeds", where="--seeds", value=text, rule=rule,
        fix="for example --seeds 5 (the job's seed and the four after it), or --seeds 1,2,3",
    )  # fmt: skip
