"""What does a job that advances day by day lose against training anew, and what does it cost?

::

    python benchmarks/advance.py JOB.yaml LOG.parquet [--time timestamp] [--unit 1d]
        [--first 50] [--periods 10] [--check 1,5,10] [--storage DIR] [--set KEY=VALUE …]

The log is cut into files by time (``--unit``: 12h, 1d, 7d, …). The job is run on the first files,
and goes on with one file a period (``p5dist advance --each``). At the periods of ``--check`` the
same job is trained anew on all files up to then, and both rank the same interactions: those of the
newest file. Steps and seconds are those of training.

The job has a split by time and ``vocabulary: {of: all}``; its test cut is replaced.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from outcome import RESULTS, circumstances, heading, write

import p5dist
from p5dist.advance import next_period
from p5dist.config import RunConfig, load_job
from p5dist.pipeline import run as run_stages
from p5dist.report.compare import compare_runs
from p5dist.storage import RunFolder

METRIC = "ndcg@10"
UNITS = {"h": 3600, "d": 86_400}


def main() -> None:
    """Cut the log, advance, train anew, compare, write the result."""
    a = _arguments()
    files, edges = _cut(a)
    count = a.first + a.periods
    assert len(files) >= count, f"the log has {len(files)} files of {a.unit}"
    job = _job(a, "advanced", files[: a.first], edges[a.first - 1])
    p5dist.run(job)
    runs = [job]
    for end in range(a.first + 1, count + 1):
        period = next_period(_job(a, "advanced", files[:end], edges[a.first - 1]))
        if period is not None:
            run_stages(period.job, [], fresh=period.fresh)
        runs.append(_name(job, len(runs)))
    checks = [int(n) for n in a.check.split(",")]
    found: dict[str, Any] = {}
    for number in checks:
        end = a.first + number
        anew = _job(a, f"anew-{number}", files[:end], edges[end - 1])
        p5dist.run(anew)
        found[str(number)] = _compared(runs[number], anew)
        print(number, found[str(number)], file=sys.stderr)
    result = {
        "question": f"advancing against training anew on {job.name.removesuffix('-advanced')}",
        "settings": {"job": Path(a.job).name, "unit": a.unit, "first": a.first,
                     "periods": a.periods, "overrides": a.set},
        "better": {}, "checks": found,
        "every_period": [_evaluated(one)["metrics"][METRIC]["value"] for one in runs],
        **circumstances("advance.py", ("p5dist", "torch", "torchrec")),
    }  # fmt: skip
    write(f"advance_{job.name.removesuffix('-advanced')}", result, _markdown(result), a.out,
          draw=lambda *_: False)  # fmt: skip


def _cut(a: argparse.Namespace) -> tuple[list[str], list[int]]:
    """Files by time, and the time at which each begins (seconds since 1970)."""
    out = Path(a.storage, "files")
    out.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(a.log)
    time = np.asarray(table[a.time]).astype(np.float64)
    size = int(a.unit[:-1]) * UNITS[a.unit[-1]]
    order = np.argsort(time, kind="stable")
    table, number = table.take(order), (time[order] - time.min()) // size
    cuts = np.flatnonzero(np.diff(number, prepend=-1))
    files, edges = [], []
    for begin, end in zip(cuts, [*cuts[1:], len(number)], strict=True):
        place = out / f"{len(files):05d}.parquet"
        if not place.exists():
            pq.write_table(table.slice(begin, end - begin), place)
        files.append(str(place))
        edges.append(int(time[order][begin]))
    return files, edges


def _job(a: argparse.Namespace, name: str, files: list[str], cut: int) -> RunConfig:
    base = load_job(a.job, a.set)
    test = datetime.fromtimestamp(cut, timezone.utc).isoformat()
    return load_job(
        a.job,
        [
            *a.set, f"storage={a.storage}", f"name={base.name}-{name}",
            f"prepare.source.files=[{','.join(files)}]", "prepare.source.format=parquet",
            f"prepare.split={{kind: time, test: '{test}'}}", "recommend=null", "report=null",
        ],
    )  # fmt: skip


def _name(job: RunConfig, number: int) -> RunConfig:
    """The run of a period, as far as its folder and stages go."""
    return job.model_copy(update={"name": f"{job.name}-period-{number:04d}"})


def _evaluated(job: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = (RunFolder.of_job(job).evaluate / "result.json").read_json()
    return found


def _training(job: RunConfig) -> dict[str, float]:
    """Steps and seconds of all training stages."""
    results = [(RunFolder.of_job(job).training(stage) / "result.json").read_json()
               for stage in job.trainings()]  # fmt: skip
    return {key: sum(result[key] for result in results) for key in ("steps", "seconds")}


def _compared(advanced: RunConfig, anew: RunConfig) -> dict[str, Any]:
    runs = [str(RunFolder.of_job(one).root) for one in (anew, advanced)]
    metric = next(m for m in compare_runs(runs)["metrics"] if m["metric"] == METRIC)
    reference, other = metric["sides"]
    difference = other["difference"]
    cost = {"anew": _training(anew), "advanced": _training(advanced)}
    before = _evaluated(advanced)["baselines"]
    return {
        "anew": reference["value"],
        "advanced": other["value"],
        "difference": {k: difference[k] / reference["value"] for k in ("value", "low", "high")},
        "baselines": {name: values.get(METRIC) for name, values in before.items()},
        "targets": _evaluated(advanced)["protocol"]["targets"],
        "cost": cost,
        "steps_share": cost["advanced"]["steps"] / cost["anew"]["steps"],
    }


def _markdown(result: dict[str, Any]) -> str:
    rows = []
    for number, one in result["checks"].items():
        diff, cost = one["difference"], one["cost"]
        rows.append(
            f"| {number} | {one['targets']:,} | {one['anew']:.4f} | {one['advanced']:.4f} | "
            f"{diff['value']:+.1%} ({diff['low']:+.1%} to {diff['high']:+.1%}) | "
            f"{cost['anew']['steps']:,} | {cost['advanced']['steps']:,} | "
            f"{one['steps_share']:.1%} | {cost['anew']['seconds']:.0f} | "
            f"{cost['advanced']['seconds']:.0f} |\n"
        )
    every = ", ".join(f"{value:.4f}" for value in result["every_period"])
    return (
        heading(result["question"], result)
        + "NDCG@10 over the interactions of the newest file, all items ranked; the interval of "
        "95 % is over users.\n\n"
        "| period | targets | anew | advanced | difference | steps anew | steps advanced | share | "
        "seconds anew | seconds advanced |\n|---|---|---|---|---|---|---|---|---|---|\n"
        + "".join(rows)
        + f"\nAdvanced, period by period: {every}.\n"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", help="job file")
    parser.add_argument("log", help="the whole log as one Parquet file or folder")
    parser.add_argument("--time", default="timestamp", help="its column of seconds since 1970")
    parser.add_argument("--unit", default="1d")
    parser.add_argument("--first", type=int, default=50, help="files of the first run")
    parser.add_argument("--periods", type=int, default=10)
    parser.add_argument("--check", default="1,10")
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
