"""Runs that are disturbed at random, and the checks after each run.

::

    python -m tests.faults.chaos --runs 20 --seed 1

A seed chooses how many workers a run has, whether they hold the data or Ray Data reads it, when it
is disturbed and by what: a worker killed or stopped, the driver killed or asked to end, a
checkpoint cut short. A run whose process ends before its work is done is started again with the
same command, as by a supervisor. Afterwards: the ledger says that every row was trained exactly
once, the losses equal the losses of the undisturbed run, the latest checkpoint loads, and no
temporary file or process is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from p5dist.checkpoint.checkpoints import Checkpoints
from tests.faults.jobs import JobProcess, leftovers, small_job_process

STEPS = 600
OVERRIDES = (
    f"pretrain.steps={STEPS}", "pretrain.checkpoint={every: 40, keep: 3}", "finetune={}",
    "pretrain.schedule.kind=constant", "pretrain.ledger=true", "scale.timeout_s=8",
    "scale.max_failures=20",
)  # fmt: skip
WAYS = ("kill a worker", "kill a worker", "stop a worker", "kill the driver", "ask to end",
        "cut a save")  # fmt: skip


def main() -> int:
    """Run, report, and say by the exit code whether all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder: Path = arguments.folder or Path(tempfile.mkdtemp())
    undisturbed = small_job_process(_made(folder / "undisturbed"), *OVERRIDES)
    undisturbed.start()
    assert undisturbed.wait() == 0, undisturbed.log.read_text()
    curve = undisturbed.losses()
    failed = 0
    for number in range(arguments.runs):
        rng = random.Random(arguments.seed * 1000 + number)
        run = disturbed_run(_made(folder / f"run-{number}"), rng, curve)
        failed += bool(run["wrong"])
        print(json.dumps({"run": number, **run}), flush=True)
    print(f"{arguments.runs} runs, {failed} of them wrong")
    return 1 if failed else 0


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def disturbed_run(
    folder: Path, rng: random.Random, curve: list[tuple[int, float]]
) -> dict[str, Any]:
    """Disturb one run, see it to its end and check what it left."""
    workers = rng.choice((1, 2, 3))
    in_memory = rng.choice((0, 5_000_000))
    job = small_job_process(
        folder, *OVERRIDES, f"scale.workers={workers}", "scale.cpus_per_worker=0.4",
        f"feed.in_memory={in_memory}",
    )  # fmt: skip
    disturbances = sorted(rng.sample(range(50, STEPS - 50), rng.choice((1, 2, 3))))
    began, starts = time.monotonic(), 1
    done: list[str] = []
    family: list[psutil.Process] = []
    job.start()
    for step in disturbances:
        while job.last_step() < step:
            if job.process is not None and job.process.poll() is not None:
                if job.last_step() >= STEPS:
                    break
                job.start()
                starts += 1
            family = _seen(job, family)
            time.sleep(0.02)
        way = rng.choice(WAYS)
        done.append(f"{way} at {disturb(job, way, rng)}")
    while True:
        family = _seen(job, family)
        code = job.wait(300)
        if code == 0:
            break
        if starts > 10:
            return {"wrong": ["it does not come to its end"], "disturbed": done}
        job.start()
        starts += 1
    wrong = problems(job, curve)
    strays = psutil.wait_procs(family, timeout=90)[1]
    wrong += [f"a process stays: {p.name()}" for p in strays]
    return {
        "wrong": wrong, "disturbed": done, "workers": workers, "in_memory": bool(in_memory),
        "starts": starts,
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def _seen(job: JobProcess, before: list[psutil.Process]) -> list[psutil.Process]:
    try:
        return list({*before, *job.family()})
    except psutil.Error:
        return before


def disturb(job: JobProcess, way: str, rng: random.Random) -> int:
    """Do it; the step that was logged last."""
    assert job.process is not None
    if way in ("kill the driver", "ask to end"):
        number = signal.SIGKILL if way == "kill the driver" else signal.SIGTERM
        os.kill(job.process.pid, number)
        step = job.last_step()
        job.wait(120)
        return step
    if way == "cut a save":
        seen = set(_unfinished(job))
        end = time.monotonic() + 20
        while not set(_unfinished(job)) - seen and time.monotonic() < end:
            time.sleep(0.001)
    workers = job.workers()
    if workers:
        try:
            number = signal.SIGSTOP if way == "stop a worker" else signal.SIGKILL
            os.kill(rng.choice(workers).pid, number)
        except ProcessLookupError:
            pass
    return job.last_step()


def _unfinished(job: JobProcess) -> list[str]:
    folders = Path(job.stage.path).glob("checkpoints/step-*")
    return [f.name for f in folders if not (f / "complete.json").exists()]


def problems(job: JobProcess, curve: list[tuple[int, float]]) -> list[str]:
    """What does not hold after a run."""
    wrong = []
    losses = job.losses()
    if [step for step, _ in losses] != [step for step, _ in curve]:
        wrong.append("a step is missing or twice")
    elif any(abs(a - b) > 1e-5 * abs(b) for (_, a), (_, b) in zip(losses, curve, strict=True)):
        worst = max(abs(a - b) / abs(b) for (_, a), (_, b) in zip(losses, curve, strict=True))
        wrong.append(f"losses differ by {worst:.1e}")
    audit = subprocess.run(
        [sys.executable, "-m", "p5dist.cli.main", "audit", str(job.file), "pretrain", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if audit.returncode:
        wrong.append(f"audit: {audit.stdout[-500:]}{audit.stderr[-500:]}")
    latest = Checkpoints(job.stage / "checkpoints").require()
    if latest.step != STEPS:
        wrong.append(f"the latest checkpoint is of step {latest.step}")
    shapes = {e.name: (e.shape, e.torch_dtype) for _, e in latest.entries()}
    latest.load({name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()})
    wrong += [f"left over: {name}" for name in leftovers(job.stage)]
    return wrong


if __name__ == "__main__":
    sys.exit(main())
