"""How fast is the feed, does training wait for it, and is its memory bounded?

::

    python benchmarks/feed.py [--interactions 1e8] [--steps 400] [--runs 3]

A synthetic log is prepared once. Then, in turn: plain pyarrow reads the shards; one process reads
the units of an epoch (the work of a Ray task); the stream of one worker takes an epoch through Ray
Data; and a small model trains, to measure its rate and its waiting time. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import measure
from outcome import RESULTS, circumstances, heading, write
from workload import P5DIST, short, synthetic_job, write_job

HERE = Path(__file__).parent
KEPT_UP_TO = 20_000_000  # interactions


def main() -> None:
    """Make the data, run the parts in turn, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", type=float, default=1e8)
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--runs", type=int, default=3)
    # Ray's sockets have names of at most 107 bytes, hence a short path.
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-bench")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    interactions = int(arguments.interactions)
    place: Path = arguments.data / f"feed-{interactions}"
    job = _prepare(place, interactions)
    names = ["plain", "reader", "lanes", "training"]
    names += ["kept"] if interactions <= KEPT_UP_TO else []
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(arguments.runs):
        for name in names:
            found = (
                _training(job, place, arguments.steps, number)
                if name == "training"
                else _part(name, job, place)
            )
            runs[name].append(found)
            print(f"run {number + 1} {name:9} {found['rate']:,.0f} histories/s", file=sys.stderr)
    result = {
        "question": "feed: histories a second, waiting, memory",
        "interactions": interactions,
        "histories": runs["plain"][0]["histories"],
        "median": {name: _median(found) for name, found in runs.items()},
        "better": {"rate": "higher", "waiting": "lower", "peak_bytes": "lower"},
        "runs": runs,
        **circumstances("feed.py", ("p5dist", "ray", "pyarrow", "numpy", "torch")),
    }
    write(f"feed-{short(interactions)}", result, _markdown(result), arguments.out)


def _prepare(place: Path, interactions: int) -> Path:
    """The job file; its data is prepared."""
    place.mkdir(parents=True, exist_ok=True)
    log = place / "log"
    job = write_job(
        place / "job.json",
        synthetic_job(
            str(log),
            str(place / "runs"),
            feed={"max_length": 50, "in_memory": 0},
            model={"dim": 64},
            pretrain={
                "epochs": 1, "batch_size": 256,
                "objective": {"loss": {"kind": "sampled_softmax", "negatives": 256}},
            },
        ),
    )  # fmt: skip
    if not (log / "_synth.json").exists():
        measure([*P5DIST, "synth", str(log), "--interactions", str(interactions)], place / "w")
    measure([*P5DIST, "prepare", str(job)], place / "w")
    return job


def _part(name: str, job: Path, place: Path) -> dict[str, Any]:
    measured = measure([sys.executable, str(HERE / "feed_parts.py"), name, str(job)], place / "w")
    found: dict[str, Any] = json.loads(measured.output.splitlines()[-1])
    found["rate"] = found["histories"] / found["seconds"]
    return {**found, "peak_bytes": measured.memory_bytes}


def _training(job: Path, place: Path, steps: int, number: int) -> dict[str, Any]:
    """A training stage under Ray Train with one worker; its own meter measures the waiting."""
    storage = place / "w" / "runs"
    settings = json.loads(job.read_text())
    settings["storage"] = str(storage)
    settings["pretrain"] |= {"steps": steps, "epochs": None, "log_every": 10}
    settings["pretrain"]["checkpoint"] = {"every": 10 * steps}
    own = write_job(place / f"training-{number}.json", settings)
    script = (
        f"mkdir -p {storage}/bench && ln -s {place}/runs/bench/prepare {storage}/bench/prepare && "
        f"{' '.join(P5DIST)} pretrain {own}"
    )
    measured = measure(["sh", "-c", script], place / "w")
    text = (storage / "bench/pretrain/metrics.jsonl").read_text()
    logged = [json.loads(line) for line in text.splitlines()][1:]  # the first waits for the start
    seconds = [line["seconds"] for line in logged]
    total = sum(sum(parts.values()) for parts in seconds)
    histories = 256 * 10 * len(logged)
    return {
        "histories": histories,
        "seconds": total,
        "rate": histories / total,
        "waiting": sum(parts["data"] for parts in seconds) / total,
        "peak_bytes": measured.memory_bytes,
    }


def _median(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Median of every number; for samples of memory, of their maximum and of the maximum of their
    last half."""
    found = {
        key: statistics.median(run[key] for run in runs)
        for key, value in runs[0].items()
        if isinstance(value, (int, float))
    }
    if runs[0].get("memory"):
        series = [[sample["bytes"] for sample in run["memory"]] for run in runs]
        halves = [(max(s[: len(s) // 2]), max(s[len(s) // 2 :])) for s in series]
        found["first_half_bytes"] = statistics.median(first for first, _ in halves)
        found["second_half_bytes"] = statistics.median(second for _, second in halves)
    return found


def _markdown(result: dict[str, Any]) -> str:
    median = result["median"]
    what = {
        "plain": "pyarrow reads the row groups, one thread",
        "reader": "read units in the order of training, one process",
        "lanes": "the stream of a worker through Ray Data, nothing is trained",
        "kept": "the stream of a worker, data kept in memory, second epoch",
        "training": "training takes (one worker, 2 layers, dim 64, B = 256, 256 negatives)",
    }
    table = ""
    for name, text in what.items():
        if name in median:
            m = median[name]
            cpu = f"{m['histories'] / m['cpu_seconds']:,.0f}" if "cpu_seconds" in m else "–"
            table += f"| {text} | {m['rate']:,.0f} | {cpu} | {m['peak_bytes'] / 1e9:.2f} |\n"
    lanes, waiting = median["lanes"], median["training"]["waiting"]
    return (
        heading(f"Feed: {result['interactions']:,} interactions", result)
        + f"{result['histories']:,} histories; median of the runs. CPU: of the process that takes "
        "the histories. Memory: peak of all processes, Ray's and its object store included.\n\n"
        "| what | histories/s | per CPU second | peak memory GB |\n|---|---|---|---|\n"
        + table
        + f"\nShare of the step time that training waits for data: **{100 * waiting:.2f} %**.\n\n"
        "The worker's own memory over the epoch through Ray Data (largest of 40 samples): first "
        f"half {lanes['first_half_bytes'] / 1e9:.2f} GB, second half "
        f"{lanes['second_half_bytes'] / 1e9:.2f} GB; {lanes['seconds_before']:.1f} s until the "
        "first step, processes included.\n"
    )


if __name__ == "__main__":
    main()
