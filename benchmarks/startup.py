"""How long does it take from ``p5dist run`` to the first step, by part?

::

    python benchmarks/startup.py [--workers 2] [--runs 5]

A small job with prepared data; the clock starts before the process. The parts: until the stage
begins (Python, the command, the job file), until its settings are known (imports of Ray and
PyTorch, start of Ray on this machine), until the first worker runs p5dist's code (Ray Train's
controller, worker processes, their imports, process group), until the worker has model and state,
until step 1 is logged.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from outcome import RESULTS, circumstances, heading, write

sys.path.insert(0, str(Path(__file__).parent.parent))

from p5dist.train.worker import read_starts
from tests.faults.jobs import small_job_process

PARTS = ("command", "imports and Ray", "workers", "model and state", "first step")
STEPS = 20


def main() -> None:
    """Measure, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = []
    for number in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(_run(Path(folder), arguments.workers))
        print(f"run {number + 1}: {runs[-1]}", file=sys.stderr)
    median = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
    result = {
        "question": "start-up: from the command to the first step",
        "better": {"total": "lower"},
        "workers": arguments.workers, "median": median, "runs": runs,
        **circumstances("startup.py", ("p5dist", "ray", "torch", "torchrec")),
    }  # fmt: skip
    rows = "".join(f"| {name} | {median[name]:.2f} |\n" for name in (*PARTS, "total"))
    text = (
        heading("Start-up of p5dist run", result)
        + f"{arguments.workers} workers on this machine, a small model, data prepared; medians of "
        f"{len(runs)} runs ({', '.join(str(run['total']) for run in runs)} s in all).\n\n"
        f"| part | seconds |\n|---|---|\n{rows}"
    )
    write("startup", result, text, arguments.out)


def _run(folder: Path, workers: int) -> dict[str, float]:
    job = small_job_process(
        folder, f"pretrain.steps={STEPS}", "pretrain.log_every=1", "finetune={}",
        f"scale.workers={workers}",
    )  # fmt: skip
    words = [sys.executable, "-m", "p5dist.cli.main", "run", str(job.file), "pretrain"]
    times = [time.time()]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        times += [_said(process.stderr, "pretrain started"), _said(process.stderr, "steps of")]
        while not (starts := read_starts(job.stage)):
            time.sleep(0.01)
        while not job.last_step():
            time.sleep(0.01)
        times += [starts[0]["entered"], starts[0]["restored"], time.time()]
        process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}")
    parts = {name: round(b - a, 2) for name, a, b in zip(PARTS, times, times[1:], strict=False)}
    return {**parts, "total": round(times[-1] - times[0], 2)}


def _said(output: IO[str], words: str) -> float:
    """The time at which a line with these words is printed."""
    for line in output:
        if words in line:
            return time.time()
    raise RuntimeError(f"the job ended before it said '{words}'")


if __name__ == "__main__":
    main()
