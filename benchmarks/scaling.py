"""How does the training stage scale with the workers?

::

    python benchmarks/scaling.py [--workers 1 2] [--modes weak strong] [--steps 100] [--runs 3]
    python benchmarks/scaling.py --address ray://HEAD:10001 --data s3://bucket/bench --workers 1 8

The same synthetic job trains through ``p5dist pretrain`` with 1 … n workers: weak scaling gives
every worker ``batch`` histories per step, strong scaling shares ``batch`` · (largest number of
workers) among the workers. Each worker has one thread. On this machine W workers and all processes
of Ray share W cores, so that a single worker cannot leave a second core to Ray. Rates and the split
of the time come from metrics.jsonl without its first lines. The runs take turns; all nodes must see
``data``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from outcome import RESULTS, circumstances, heading, write
from picture import STYLE
from workload import on_cores, p5dist, prepared_job, short, trained, write_job

MODES = ("weak", "strong")


def main() -> None:
    """Train in turn, then write the results."""
    arguments = _arguments()
    workers: list[int] = sorted({1, *arguments.workers})
    job = prepared_job(arguments.data, int(arguments.interactions), address=arguments.address)
    cores = os.cpu_count() or 1
    cpus = arguments.cpus_per_worker or min(1.0, cores / workers[-1])
    lines: list[dict[str, Any]] = []
    for turn in range(arguments.runs):
        for mode in arguments.modes:
            for count in workers if turn % 2 == 0 else reversed(workers):
                batch = arguments.batch * (count if mode == "weak" else workers[-1])
                found = train(job, count, batch, arguments.steps, cpus)
                lines.append({"mode": mode, "workers": count, "turn": turn + 1, **found})
                print(json.dumps(lines[-1]), file=sys.stderr)
    add_efficiency(lines)
    result = {
        "question": "scaling of the training stage",
        "settings": {
            "interactions": int(arguments.interactions), "batch": arguments.batch,
            "steps": arguments.steps, "cpus_per_worker": cpus, "workers": workers,
        },
        "better": {"rate": "higher", "efficiency": "higher"},
        "runs": {f"{mode} {count}": [line for line in lines
                                     if (line["mode"], line["workers"]) == (mode, count)]
                 for mode in arguments.modes for count in workers},
        **circumstances("scaling.py", ("p5dist", "ray", "torch", "torchrec")),
    }  # fmt: skip
    name = f"scaling-{short(int(arguments.interactions))}"
    text = _markdown(result, cores if arguments.address is None else None)
    write(name, result, text, arguments.out, _draw)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="1 always runs")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--interactions", type=float, default=2e6)
    parser.add_argument("--batch", type=int, default=256, help="histories, a multiple of 64")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--address", help="of a Ray cluster; left out: this machine")
    parser.add_argument(
        "--cpus-per-worker", type=float,
        help="left out: 1, or an equal part where this machine has fewer",
    )  # fmt: skip
    place = Path(tempfile.gettempdir()) / "p5dist-bench"
    parser.add_argument("--data", default=str(place), help="folder or URL for log and runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.address is not None and arguments.cpus_per_worker is None:
        arguments.cpus_per_worker = 1.0
    return arguments


def train(
    job: dict[str, Any], workers: int, batch: int, steps: int, cpus: float
) -> dict[str, float]:
    """Train from scratch and measure ``rate`` (histories per second), ``step`` (seconds), and the
    seconds of a step by part.

    Args:
        job: a job with prepared data.
        batch: histories of a step over all workers.
        cpus: CPUs that a worker reserves; below 2 the worker has one thread.
    """
    settings = {
        **job,
        "pretrain": {
            **job["pretrain"], "steps": steps, "batch_size": batch,
            "checkpoint": {"every": 10 * steps},
        },
        "scale": {**job.get("scale", {}), "workers": workers, "cpus_per_worker": cpus},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = write_job(Path(folder) / "job.json", settings)
        here = job.get("scale", {}).get("address") is None
        with on_cores(workers) if here else nullcontext():
            p5dist("pretrain", str(path), "--fresh", mark=f"{workers} workers:")
    return trained(settings, steps_left_out=max(steps // 5, 10))


def add_efficiency(lines: list[dict[str, Any]]) -> None:
    """Add ``efficiency``: rate of W workers ÷ (W · rate of one worker in the same turn)."""
    ones = {(line["mode"], line["turn"]): line["rate"] for line in lines if line["workers"] == 1}
    for line in lines:
        line["efficiency"] = line["rate"] / line["workers"] / ones[line["mode"], line["turn"]]


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run.get(key, 0.0) for run in runs)


def _markdown(result: dict[str, Any], cores: int | None) -> str:
    settings, runs = result["settings"], result["runs"]
    parts = [key.removeprefix("seconds ") for key in next(iter(runs.values()))[0]
             if key.startswith("seconds ")]  # fmt: skip
    table = ""
    for name, found in runs.items():
        mode, count = name.split()
        seconds = (f"{_median(found, f'seconds {part}') * 1e3:.1f}" for part in parts)
        rates = ", ".join(f"{run['rate']:,.0f}" for run in found)
        mark = " *" if cores is not None and int(count) > cores else ""
        table += (
            f"| {mode} | {count}{mark} | {_median(found, 'rate'):,.0f} ({rates}) "
            f"| {_median(found, 'efficiency'):.2f} | {' | '.join(seconds)} |\n"
        )
    return (
        heading("Scaling of the training stage", result)
        + f"{settings['interactions']:,} synthetic interactions; weak: {settings['batch']} "
        f"histories a worker and step, strong: {settings['batch'] * settings['workers'][-1]} over "
        f"all; {settings['steps']} steps of which the first fifth (at least 10) is left out; one "
        f"thread a worker{', W workers and all of Ray on W cores' if cores else ''}; medians of "
        "runs that took turns. Efficiency: rate of W workers ÷ (W · "
        "rate of one in the same turn). Milliseconds of a step by part, as the first worker sees "
        "them: waiting for others counts where it waits.\n\n"
        f"| scaling | workers | histories/s (runs) | efficiency | {' | '.join(parts)} |\n"
        f"|{'---|' * (4 + len(parts))}\n" + table
        + ("\n\\* more workers than cores: they share them.\n" if "*" in table else "")
    )  # fmt: skip


def _draw(result: dict[str, Any], place: Path) -> bool:
    """Efficiency by workers; every run is a point."""
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(4.5, 2.5), layout="constrained")
        ax = figure.add_subplot()
        for colour, mode in zip(("C0", "C1"), MODES, strict=True):
            found = {int(name.split()[1]): runs for name, runs in result["runs"].items()
                     if name.startswith(mode)}  # fmt: skip
            if not found:
                continue
            middle = [_median(runs, "efficiency") for runs in found.values()]
            ax.plot(list(found), middle, color=colour, marker="o", label=mode)
            for count, runs in found.items():
                points = [run["efficiency"] for run in runs]
                ax.plot([count] * len(runs), points, ".", color=colour, alpha=0.4)
        ax.axhline(1, color="0.7", linewidth=0.8)
        ax.set(xlabel="workers", ylabel="efficiency", ylim=(0, None))
        ax.set_xticks(result["settings"]["workers"])
        ax.legend(frameon=False)
        figure.savefig(place, metadata={"Date": None})
    return True


if __name__ == "__main__":
    main()
