"""Golden losses, which a change that is not meant to change the trainings must reproduce.

::

    python -m tests.golden.losses compare            small trainings, 1 and 2 workers
    python -m tests.golden.losses compare --jobs     the first 20 steps of the jobs under jobs/ too
    python -m tests.golden.losses write [--jobs]     rewrite the files; say why in the commit

``small.json`` and ``jobs.json`` hold one loss per step, by name of the training and number of
workers. Sums are rounded differently on other processors, so two machines agree to about 1e-4 only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from p5dist.environment.processes import Processes
from p5dist.prepare import stage as prepare
from p5dist.storage import RunFolder
from tests.distributed.heads import curves
from tests.golden.cases import Case, job_cases, small_cases
from tests.processes import run_distributed

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SMALL, JOBS = HERE / "small.json", HERE / "jobs.json"
WORKERS = (1, 2)
TOLERANCE = 2e-4

Curves = dict[str, tuple[list[float], list[str]]]
Losses = dict[str, list[float]]


def train(cases: dict[str, Case], workers: int, backend: str = "gloo") -> Curves:
    """By name, the losses of all steps, and the dense parameters that no gradient reached."""
    stages = {name: (case.job, case.stage) for name, case in cases.items()}
    ranks: list[Curves] = run_distributed(curves, workers, stages, backend=backend)
    assert all(other == ranks[0] for other in ranks), "the workers do not agree"
    return ranks[0]


def small_losses() -> dict[str, Losses]:
    """By number of workers and name."""
    found = {}
    for workers in WORKERS:
        with tempfile.TemporaryDirectory() as folder:
            trained = train(small_cases(Path(folder)), workers)
        found[str(workers)] = {name: losses for name, (losses, _) in trained.items()}
    return found


def job_losses(data: Path) -> dict[str, Losses]:
    """As :func:`small_losses`, of the jobs under jobs/ whose data can be had."""
    found: dict[str, Losses] = {str(workers): {} for workers in WORKERS}
    for workers in WORKERS:
        with tempfile.TemporaryDirectory() as folder:
            cases = dict(job_cases(ROOT, Path(folder), data))
            for case in cases.values():
                tasks = Processes("prepare", 2)
                prepare.run(case.job, RunFolder.of(case.job.storage, case.job.name), tasks)
                tasks.close()
            trained = train(cases, workers)
            found[str(workers)] = {name: losses for name, (losses, _) in trained.items()}
    return found


def difference(golden: list[float], found: list[float]) -> float:
    """The largest relative difference; infinite where the numbers of steps differ."""
    if len(golden) != len(found):
        return float("inf")
    a, b = np.asarray(golden), np.asarray(found)
    return float((np.abs(a - b) / np.maximum(np.abs(a), 1e-12)).max())


def read(file: Path) -> dict[str, Losses]:
    """What was written down."""
    found: dict[str, Losses] = json.loads(file.read_text())
    return found


def main() -> int:
    """The command line; exit code 1 where a loss has changed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("command", choices=("compare", "write"))
    parser.add_argument("--jobs", action="store_true", help="the jobs under jobs/ too")
    data = Path(os.environ.get("P5DIST_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder with the real data")
    arguments = parser.parse_args()
    made = {SMALL: small_losses()}
    if arguments.jobs:
        made[JOBS] = job_losses(arguments.data)
    worst = 0.0
    for file, by_workers in made.items():
        if arguments.command == "write":
            lines = json.dumps(by_workers, indent=0, ensure_ascii=False)
            file.write_text(lines + "\n")
            continue
        golden = read(file)
        for workers, losses in by_workers.items():
            for name, found in losses.items():
                away = difference(golden[workers][name], found)
                worst = max(worst, away)
                mark = "" if away <= TOLERANCE else "   CHANGED"
                print(
                    f"{workers} worker{'s' if workers != '1' else ' '} {name:<45} {away:.1e}{mark}"
                )
    if arguments.command == "compare":
        print(f"largest relative difference {worst:.1e}, allowed {TOLERANCE:g}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
