"""How far is ``p5dist plan`` from the measured times?

::

    python benchmarks/plan_check.py [--workers 1 2 4] [--interactions 2e6] [--steps 60] [--runs 3]

The plan is computed for this machine, with the rates that as many processes as workers measure at
once (rates.py); the job is the job of scaling.py, with the same number of histories per worker. The
plan uses these rates like a maker's figures, so its EFFICIENCY is checked too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from outcome import RESULTS, circumstances, heading, write
from rates import rates
from scaling import train
from workload import prepared_job

from p5dist.capacity.estimate import EFFICIENCY, Estimate, estimate
from p5dist.capacity.machines import Machine
from p5dist.capacity.sharding import plan_tables
from p5dist.config import parse_job
from p5dist.data.manifest import Manifest
from p5dist.storage import RunFolder

_STORED = 256 << 20


def main() -> None:
    """Measure the machine and the job in turn, then write the results."""
    arguments = _arguments()
    cores = os.cpu_count() or 1
    job = prepared_job(str(arguments.data), int(arguments.interactions))
    runs: dict[str, list[dict[str, Any]]] = {str(count): [] for count in arguments.workers}
    for turn in range(arguments.runs):
        for count in arguments.workers:
            batch = arguments.batch * count
            machine = this_machine(count, arguments.data)
            planned = _plan(job, batch, machine, count)
            measured = train(job, count, batch, arguments.steps, min(1.0, cores / count))
            line = {
                "estimated": planned.step, "measured": measured["step"],
                "error": planned.step / measured["step"] - 1, "limit": planned.limit,
                "parts": planned.parts, "measured parts": measured,
                "machine": machine.model_dump(),
            }  # fmt: skip
            runs[str(count)].append(line)
            print(f"run {turn + 1} {count} workers: {json.dumps(line)}", file=sys.stderr)
    result = {
        "question": "p5dist plan beside measured steps",
        "settings": {"interactions": int(arguments.interactions), "batch": arguments.batch,
                     "steps": arguments.steps, "workers": arguments.workers},
        "better": {"measured": "lower"},
        "efficiency": EFFICIENCY,
        "runs": runs,
        **circumstances("plan_check.py", ("p5dist", "ray", "torch", "torchrec")),
    }  # fmt: skip
    write("plan_check", result, _markdown(result, cores), arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--interactions", type=float, default=2e6)
    parser.add_argument("--batch", type=int, default=256, help="histories a worker and step")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-bench")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def this_machine(workers: int, data: Path) -> Machine:
    """This machine as an entry of machines.yaml, measured with as many processes as workers."""
    found = rates(workers)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    exchange = (found.exchange or found.memory) / 1e9  # one worker sends nothing
    return Machine(
        device="cpu",
        devices=workers,
        device_memory=memory / workers,
        device_rate=found.memory / 1e9,
        flops=found.flops / 1e9,
        inside=exchange,
        network=exchange,
        memory=memory,
        storage=_stored(data) / 1e9,
    )


def _stored(folder: Path) -> float:
    """Bytes per second of writing a file until it is on disk."""
    content = os.urandom(_STORED)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return _STORED / (time.perf_counter() - began)


def _plan(job: dict[str, Any], batch: int, machine: Machine, workers: int) -> Estimate:
    settings = {**job, "pretrain": {**job["pretrain"], "batch_size": batch}}
    config = parse_job(json.dumps(settings))
    manifest = Manifest.load(RunFolder.of(config.storage, config.name).prepare)
    tables = plan_tables(config, "pretrain", manifest, machine, workers)
    return estimate(config, "pretrain", manifest, machine, workers, tables)


def _markdown(result: dict[str, Any], cores: int) -> str:
    settings, reached = result["settings"], result["efficiency"]
    rows, machines = "", ""
    for name, found in result["runs"].items():
        middle = {key: statistics.median(run[key] for run in found)
                  for key in ("estimated", "measured", "error")}  # fmt: skip
        errors = ", ".join(f"{run['error']:+.0%}" for run in found)
        mark = " *" if int(name) > cores else ""
        rows += (
            f"| {name}{mark} | {middle['estimated'] * 1e3:.1f} | {middle['measured'] * 1e3:.1f} "
            f"| {middle['error']:+.0%} ({errors}) | {found[0]['limit']} |\n"
        )
        machine = {key: statistics.median(run["machine"][key] for run in found)
                   for key in ("device_rate", "flops", "inside", "storage")}  # fmt: skip
        machines += f"| {name}{mark} | {' | '.join(f'{v:.2f}' for v in machine.values())} |\n"
    return (
        heading("p5dist plan beside measured steps", result)
        + f"{settings['interactions']:,} synthetic interactions, {settings['batch']} histories a "
        f"worker and step, {settings['steps']} steps; medians of runs that took turns. The plan "
        f"reckons with {reached['flops']:.0%} of the operations, {reached['memory']:.0%} of "
        f"memory and {reached['links']:.0%} of links, as it does with a maker's figures.\n\n"
        "| workers | planned step ms | measured step ms | error (runs) | the plan's limit |\n"
        "|---|---|---|---|---|\n" + rows
        + "\nThis machine, one thread a worker, all at once; 10⁹ bytes or operations a second:\n\n"
        "| workers | memory | float32 operations | all-reduce | storage |\n|---|---|---|---|---|\n"
        + machines
        + ("\n\\* more workers than cores: they share them.\n" if "*" in rows else "")
    )  # fmt: skip


if __name__ == "__main__":
    main()
