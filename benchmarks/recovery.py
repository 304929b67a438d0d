"""How long does it take from the death of a worker until training continues?

::

    python benchmarks/recovery.py [--runs 3] [--workers 2]

A small job trains; one worker is killed with SIGKILL. The parts: until the old workers are gone
(Ray Train notices and ends the group), until the new workers run p5dist's code (processes, imports,
process group), until they have model and state, until the next step is logged.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from outcome import RESULTS, circumstances, heading, write

sys.path.insert(0, str(Path(__file__).parent.parent))

from p5dist.train.worker import read_starts
from tests.faults.jobs import small_job_process

PARTS = ("noticed and ended", "processes and imports", "model and state", "first step")
EVERY = 50


def main() -> None:
    """Measure, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = []
    for number in range(arguments.runs):
        runs.append(_run(Path(tempfile.mkdtemp()), arguments.workers))
        print(f"run {number + 1}: {runs[-1]}", file=sys.stderr)
    median = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
    result = {
        "question": "recovery: from the death of a worker to the next step",
        "better": {"total": "lower"},
        "workers": arguments.workers, "checkpoint_every": EVERY, "median": median, "runs": runs,
        **circumstances("recovery.py", ("p5dist", "ray", "torch", "torchrec")),
    }  # fmt: skip
    rows = "".join(f"| {name} | {median[name]:.2f} |\n" for name in (*PARTS, "total"))
    text = (
        heading("Recovery: a worker is killed", result)
        + f"{arguments.workers} workers on this machine, a small model, a checkpoint every {EVERY} "
        f"steps; median of {len(runs)} runs ({', '.join(str(r['total']) for r in runs)} s in "
        "all).\n\n"
        f"| part | seconds |\n|---|---|\n{rows}\n"
        f"Steps taken again: {', '.join(str(int(run['steps lost'])) for run in runs)}.\n"
    )
    write("recovery", result, text, arguments.out)


def _run(folder: Path, workers: int) -> dict[str, float]:
    job = small_job_process(
        folder, "pretrain.steps=2000", f"pretrain.checkpoint.every={EVERY}", "finetune={}",
        f"scale.workers={workers}",
    )  # fmt: skip
    job.start()
    job.wait_for_step(EVERY * 2 + EVERY // 2)
    old = job.workers()
    killed = time.time()
    os.kill(old[-1].pid, signal.SIGKILL)
    last = job.last_step()
    while any(worker.is_running() and worker.status() != "zombie" for worker in old):
        time.sleep(0.01)
    ended = time.time()
    while len(read_starts(job.stage)) < 2:
        time.sleep(0.01)
    start = read_starts(job.stage)[1]
    before = start["step"]
    while not before < job.last_step():
        time.sleep(0.01)
    stepped = time.time()
    os.kill(job.family()[0].pid, signal.SIGTERM)
    job.wait()
    times = (killed, ended, start["entered"], start["restored"], stepped)
    parts = {name: round(b - a, 2) for name, a, b in zip(PARTS, times, times[1:], strict=False)}
    return {**parts, "total": round(stepped - killed, 2), "steps lost": float(last - before)}


if __name__ == "__main__":
    main()
