"""Time and memory of a whole run at scale: from a synthetic log to recommendations for all users.

::

    python benchmarks/whole.py --interactions 1e8 [--items 2e5] [--steps 1000] [--workers 2] [--cut]

One job file; every stage is a separate command, including start-up, so that time and peak memory
are measured per stage. evaluate ranks for ``--users`` users, recommend for all users; both over all
items, whose number grows with the log unless ``--items`` fixes it. With ``--cut`` recommend is
killed when a third of its parts are there, and the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import measure
from outcome import RESULTS, circumstances, heading, write
from workload import P5DIST, short, synthetic_job, write_job

from p5dist.data.manifest import Manifest
from p5dist.storage import RunFolder

STAGES = ("prepare", "pretrain", "evaluate", "recommend")
_POLL_S = 5


def main() -> None:
    """Run all, then write the results."""
    arguments = _arguments()
    interactions = int(arguments.interactions)
    place: Path = arguments.data / f"whole-{short(interactions)}"
    runs: dict[str, list[dict[str, float]]] = {stage: [] for stage in ("synth", *STAGES)}
    job = _job(place, arguments)
    for number in range(arguments.runs):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        path = write_job(place / "job.json", job)
        words = ["synth", str(place / "log"), "--interactions", str(interactions)]
        words += ["--items", str(arguments.items)] if arguments.items is not None else []
        for stage in runs:
            command = words if stage == "synth" else ["run", str(path), stage]
            cut = _cut(path, place) if stage == "recommend" and arguments.cut else {}
            measured = asdict(measure([*P5DIST, *command], arguments.data / "w"))
            keys = ("seconds", "memory_bytes", "disk_bytes")
            runs[stage].append({key: measured[key] for key in keys} | cut)
            runs[stage][-1]["run_bytes"] = _size(place)
            print(
                f"run {number + 1} {stage:9} {measured['seconds']:8.1f} s "
                f"{measured['memory_bytes'] / 1e9:6.2f} GB",
                file=sys.stderr,
            )
    manifest = Manifest.load(RunFolder.of(job["storage"], job["name"]).prepare)
    shutil.rmtree(place)
    result = {
        "question": "a whole run: time and peak memory by stage",
        "settings": {"interactions": interactions, "items": arguments.items,
                     "users": int(arguments.users),
                     "steps": arguments.steps, "batch": arguments.batch,
                     "workers": arguments.workers},
        "better": {"seconds": "lower", "memory_bytes": "lower"},
        "counts": {"interactions": manifest.rows_kept, "users": manifest.users,
                   "items": manifest.items},
        "median": {stage: {key: statistics.median(run[key] for run in found) for key in found[0]}
                   for stage, found in runs.items()},
        "cut": arguments.cut,
        "runs": runs,
        **circumstances("whole.py", ("p5dist", "ray", "torch", "torchrec", "pyarrow")),
    }  # fmt: skip
    write(f"whole-{short(interactions)}", result, _markdown(result), arguments.out)


def _cut(path: Path, place: Path) -> dict[str, float]:
    """Start recommend, kill it when a third of the parts are there."""
    lists = place / "runs/bench/recommend"
    began = time.perf_counter()
    process = subprocess.Popen([*P5DIST, "run", str(path), "recommend"], start_new_session=True)
    while process.poll() is None:
        time.sleep(_POLL_S)
        file = lists / "scratch/portions.json"
        if file.exists():
            there = len(list(lists.glob("part-*.parquet")))
            if 3 * there >= int(file.read_text()):
                os.killpg(process.pid, signal.SIGKILL)
                break
    process.wait()
    there = len(list(lists.glob("part-*.parquet")))
    return {"seconds_before_cut": time.perf_counter() - began, "parts_before_cut": there}


def _size(place: Path) -> int:
    """Bytes of all files of the log and the run."""
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", type=float, default=1e8)
    parser.add_argument("--items", type=float, help="left out: as p5dist synth has it")
    parser.add_argument("--users", type=float, default=1e5, help="that are evaluated")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=512, help="histories of a step")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cut", action="store_true", help="kill recommend on its way")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-bench")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _job(place: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    return synthetic_job(
        str(place / "log"),
        str(place / "runs"),
        feed={"max_length": 50},
        model={"dim": 64},
        pretrain={
            "steps": arguments.steps, "batch_size": arguments.batch,
            "objective": {"loss": {"kind": "sampled_softmax", "negatives": 1024}},
        },
        evaluate={"users": int(arguments.users)}, recommend={},
        scale={"workers": arguments.workers},
    )  # fmt: skip


def _markdown(result: dict[str, Any]) -> str:
    settings, counts, median = result["settings"], result["counts"], result["median"]
    table = "".join(
        f"| {stage} | {m['seconds']:,.1f} | {m['memory_bytes'] / 1e9:.2f} | "
        f"{m['run_bytes'] / 1e9:.1f} | {m['disk_bytes'] / 1e9:.1f} |\n"
        for stage, m in median.items()
    )
    total = sum(m["seconds"] for m in median.values())
    peak = max(m["memory_bytes"] for m in median.values())
    return (
        heading(f"A whole run: {settings['interactions']:,} interactions", result)
        + f"{counts['interactions']:,} interactions of {counts['users']:,} users with "
        f"{counts['items']:,} items; {settings['steps']:,} steps of {settings['batch']} "
        f"histories on {settings['workers']} workers (2 layers, dim 64, 1,024 negatives); "
        f"evaluate for about {settings['users']:,} users, recommend for all, over all items. "
        "Whole commands, imports and Ray included; memory: peak sum of PSS over all processes; "
        f"median of {len(result['runs']['synth'])} run(s).\n\n"
        "| stage | seconds | peak memory GB | log and run on disk GB | temporary files GB |\n"
        "|---|---|---|---|---|\n"
        + table
        + f"| all | {total:,.1f} | {peak / 1e9:.2f} | | |\n"
        + _of_cut(median["recommend"])
    )


def _of_cut(recommend: dict[str, float]) -> str:
    if "parts_before_cut" not in recommend:
        return ""
    return (
        f"\nrecommend was killed after {recommend['seconds_before_cut']:,.0f} s, when "
        f"{recommend['parts_before_cut']:,.0f} parts were there; the seconds above are those of "
        "the same command, which kept these parts and made the others.\n"
    )


if __name__ == "__main__":
    main()
