"""How fast does p5dist's transformer train on one core, compared with other SASRecs?

::

    python benchmarks/train.py [DATA/beauty/sequences.txt] [--recbole-python PATH]
                               [--rectools-python PATH] [--length 50] [--steps 100] [--runs 3]

A target is a position with a loss: p5dist, rectools and the padded PyTorch of train_padded.py have
a target at every position of a history except the first; recbole makes a sample of every prefix,
with one target each. All have the same width, depth, heads and length and the softmax over all
items; a batch is a number of histories, for recbole a number of samples (``--recbole-batch``,
default 2,048: about as many targets). All processes of a run share one core, one thread each. Peers
run in separate environments, which the options name; peers without the option are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from outcome import RESULTS, circumstances, heading, write
from workload import p5dist, prepare, synthetic_sequences, trained, write_job

from p5dist.config import parse_job
from p5dist.data.manifest import Manifest
from p5dist.feed.mix import open_mix
from p5dist.feed.stream import LaneStream, read_here
from p5dist.storage import RunFolder

HERE = Path(__file__).parent
SIZES = ("dim", "layers", "heads", "batch", "length", "warm_up", "steps")
LOG_EVERY = 5


def main() -> None:
    """Train with all tools in turn, then write the results."""
    arguments = _arguments()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # and of all that is started
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.sequences is None:
        arguments.sequences = synthetic_sequences(arguments.data, 200_000)
    sequences = _sequences(arguments)
    job = _job(arguments, sequences)
    interpreters = {
        "p5dist": sys.executable, "padded": sys.executable,
        "recbole": arguments.recbole_python, "rectools": arguments.rectools_python,
    }  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {t: [] for t, python in interpreters.items() if python}
    for tool in interpreters.keys() - runs.keys():
        print(f"{tool} is left out: no --{tool}-python", file=sys.stderr)
    for turn in range(arguments.runs):
        for tool in runs if turn % 2 == 0 else reversed(runs):
            python = interpreters[tool]
            found = _p5dist(job) if tool == "p5dist" else _peer(tool, python, sequences, arguments)
            found["rate"] = found["targets"] / found["seconds"]
            runs[tool].append(found)
            print(f"run {turn + 1} {tool:9} {found['rate']:,.0f} targets/s", file=sys.stderr)
    rates = {tool: statistics.median(run["rate"] for run in found) for tool, found in runs.items()}
    result = {
        "question": "training: targets a second and core",
        "settings": {"data": arguments.sequences.parent.name, "users": arguments.users,
                     "recbole_batch": arguments.recbole_batch, "dropout": arguments.dropout,
                     **{name: getattr(arguments, name) for name in SIZES}},
        "better": {"rate": "higher"},
        "median": rates,
        "ratio": {tool: rates["p5dist"] / rate for tool, rate in rates.items() if tool != "p5dist"},
        "runs": runs,
        **circumstances("train.py", ("p5dist", "torch", "torchrec", "ray")),
    }  # fmt: skip
    write(f"train-{arguments.sequences.parent.name}", result, _markdown(result), arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "sequences", type=Path, nargs="?",
        help="a line a user: user item item …; left out: 200,000 synthetic interactions",
    )  # fmt: skip
    parser.add_argument("--users", type=int, help="the first so many lines; left out: all")
    parser.add_argument("--recbole-python", help="an interpreter that has recbole 1.2.1")
    parser.add_argument("--rectools-python", help="an interpreter that has rectools[torch]")
    parser.add_argument("--recbole-batch", type=int, default=2048, help="samples")
    for name, size in zip(SIZES, (64, 2, 2, 256, 50, 20, 100), strict=True):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-bench")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for name in ("warm_up", "steps"):
        if getattr(arguments, name) % LOG_EVERY:
            parser.error(f"--{name.replace('_', '-')} must be a multiple of {LOG_EVERY}")
    return arguments


def _sequences(arguments: argparse.Namespace) -> Path:
    """Write the training lines to a file below ``data``."""
    lines = arguments.sequences.read_text().splitlines(keepends=True)[: arguments.users]
    place: Path = arguments.data / f"train-{arguments.sequences.parent.name}-{len(lines)}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "sequences.txt").write_text("".join(lines))
    return place / "sequences.txt"


def _job(a: argparse.Namespace, sequences: Path) -> Path:
    """p5dist's job file; its data is prepared."""
    job = write_job(
        sequences.with_name("job.json"),
        {
            "name": "bench",
            "storage": str(sequences.with_name("runs")),
            "prepare": {
                "source": {"files": str(sequences), "format": "sequences"},
                "vocabulary": {"of": "all"},
            },
            "feed": {"max_length": a.length},
            "model": {
                "dim": a.dim,
                "encoder": {"layers": a.layers, "heads": a.heads, "dropout": a.dropout},
            },
            "pretrain": {
                "batch_size": a.batch, "steps": a.warm_up + a.steps, "log_every": LOG_EVERY,
                "checkpoint": {"every": 10 * (a.warm_up + a.steps)},
                "schedule": {"warmup_steps": a.warm_up},
            },
            "evaluate": None, "recommend": None, "report": None,
            "scale": {"workers": 1, "cpus_per_worker": 1},
        },
    )  # fmt: skip
    prepare(job)
    return job


def _p5dist(job: Path) -> dict[str, Any]:
    """The stage under Ray Train; targets are counted in the histories of the same steps."""
    p5dist("pretrain", str(job), "--fresh")
    config = parse_job(job.read_text())
    assert config.pretrain is not None and config.pretrain.steps is not None
    warm_up, total = config.pretrain.schedule.warmup_steps, config.pretrain.steps
    found = trained(json.loads(job.read_text()), steps_left_out=warm_up)
    folder = RunFolder.of(config.storage, config.name)
    manifest = Manifest.load(folder.prepare)
    mix = open_mix(config, "pretrain", folder, manifest)
    readers = mix.readers(config, config.trainings()["pretrain"])
    stream = LaneStream(readers, 0, 1, config.feed.unit_rows, config.feed.read_ahead, read_here)
    targets = sum(
        int((histories.lengths - 1).clip(min=0).sum())
        for _, histories in stream.steps(warm_up, total)
    )
    seconds = found["step"] * (total - warm_up)
    return {"targets": targets, "seconds": seconds, "items": manifest.items}


def _peer(tool: str, python: str, sequences: Path, a: argparse.Namespace) -> dict[str, Any]:
    sizes = {name: getattr(a, name) for name in SIZES}
    if tool == "recbole":
        sizes["batch"] = a.recbole_batch
    words = [word for name, size in sizes.items()
             for word in (f"--{name.replace('_', '-')}", str(size))]  # fmt: skip
    program = [python, str(HERE / f"train_{tool}.py"), str(sequences)]
    # An environment of its own does not look for its packages where ours are.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:  # recbole writes logs where it is
        done = subprocess.run(
            [*program, *words, "--dropout", str(a.dropout)],
            env=env, cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{tool} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _markdown(result: dict[str, Any]) -> str:
    settings, runs = result["settings"], result["runs"]
    table = ""
    for tool, found in runs.items():
        rates = ", ".join(f"{run['rate']:,.0f}" for run in found)
        ratio = f"{result['ratio'][tool]:.2f}" if tool in result["ratio"] else "–"
        version = found[0].get("version", "this")
        table += (
            f"| {tool} ({version}) | {result['median'][tool]:,.0f} ({rates}) | {ratio} "
            f"| {found[0]['targets'] / settings['steps']:,.0f} | {found[0]['items']:,} |\n"
        )
    users = f"first {settings['users']:,} users of " if settings["users"] else ""
    return (
        heading(f"Training on {settings['data']}: targets a second and core", result)
        + f"{users}{settings['data']}; {settings['layers']} layers, dim {settings['dim']}, "
        f"{settings['heads']} heads, at most {settings['length']} interactions, dropout "
        f"{settings['dropout']}, softmax over all items; {settings['steps']} steps after "
        f"{settings['warm_up']} of warm-up, loading included; one thread, all processes of a run "
        "on one core (p5dist: with Ray's); medians of runs that took turns.\n\n"
        "A target is a position with a loss. p5dist, rectools and padded take "
        f"{settings['batch']} histories a step and predict at every position but the first; "
        f"recbole takes {settings['recbole_batch']} samples, a prefix with one target each.\n\n"
        "| tool (version) | targets/s (runs) | p5dist ÷ it | targets a step | items |\n"
        "|---|---|---|---|---|\n" + table
    )


if __name__ == "__main__":
    main()
