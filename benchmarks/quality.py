"""Ranking quality of finished runs of one data set, beside the baselines and published figures.

::

    p5dist run jobs/beauty.yaml …
    python benchmarks/quality.py beauty runs/beauty [MORE RUNS …] [--against runs/scratch]
        [--published "SASRec+CE=0.0531" …]

Runs must have the same protocol: split, catalogue, masking, targets. ``--against`` compares each
with that run user by user (paired bootstrap).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from outcome import RESULTS, circumstances, heading, write

from p5dist import columns as c
from p5dist.storage import Folder

METRICS = ("ndcg@10", "hr@10", "mrr@10", "coverage@10")
SAME = ("split", "catalogue", "mask_seen", "ties", "users", "targets")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Run:
    """A run whose evaluation is there."""

    folder: Folder
    evaluation: dict[str, Any]
    minutes: float
    """Of training, all stages that the ranking one builds on."""
    steps: str

    @classmethod
    def read(cls, place: str) -> Run:
        folder = Folder.open(place)
        evaluation = (folder / "evaluate/result.json").read_json()
        stage = evaluation["protocol"]["ranking_from"]
        stages = [s for s in dict.fromkeys(("pretrain", stage)) if (folder / s).exists()]
        results = [(folder / s / "result.json").read_json() for s in stages]
        return cls(
            folder, evaluation, sum(r["seconds"] for r in results) / 60,
            " + ".join(f"{r['steps']:,}" for r in results),
        )  # fmt: skip

    @property
    def protocol(self) -> dict[str, Any]:
        return {key: self.evaluation["protocol"][key] for key in SAME}

    def gains(self) -> npt.NDArray[np.float64]:
        """NDCG@10 of every target, in the order of user and item."""
        table = (self.folder / "evaluate/targets.parquet").read_table([c.USER, c.ITEM, c.RANK])
        table = table.sort_by([(c.USER, "ascending"), (c.ITEM, "ascending")])
        rank = table[c.RANK].to_numpy()
        return np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0.0)


def main() -> None:
    """Read the runs, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the data set")
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--against", help="run folder")
    parser.add_argument("--published", action="append", default=[], metavar="NAME=NDCG@10")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = [Run.read(place) for place in arguments.runs]
    other = None if arguments.against is None else Run.read(arguments.against)
    for run in [*runs, *([other] if other else [])]:
        if run.protocol != runs[0].protocol:
            parser.error(f"{run.folder} has another protocol: {run.protocol}, {runs[0].protocol}")
    result = {
        "question": f"ranking quality on {arguments.name}",
        "protocol": runs[0].protocol,
        "runs": [
            {
                "run": run.folder.name, "metrics": run.evaluation["metrics"],
                "minutes": run.minutes, "steps": run.steps,
                "seed": run.evaluation["protocol"]["seed"],
                "max_length": run.evaluation["protocol"]["max_length"],
            } for run in runs
        ],
        "baselines": runs[0].evaluation["baselines"],
        "published": dict(pair.rsplit("=", 1) for pair in arguments.published),
        "against": None if other is None else {
            "run": other.folder.name, **{r.folder.name: _compare(r, other) for r in runs}
        },
        **circumstances("quality.py", ("p5dist", "torch", "torchrec")),
    }  # fmt: skip
    write(f"quality_{arguments.name}", result, _markdown(arguments.name, result), arguments.out)


def _compare(run: Run, other: Run) -> dict[str, float]:
    """Relative gain of the mean NDCG@10 with its 95 % interval: targets are drawn again, the same
    for both runs (paired bootstrap, Efron and Tibshirani 1993)."""
    ours, theirs = run.gains(), other.gains()
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(ours), len(ours))
        gains.append(ours[drawn].mean() / theirs[drawn].mean() - 1)
    low, high = np.percentile(gains, [2.5, 97.5])
    return {"gain": ours.mean() / theirs.mean() - 1, "low": float(low), "high": float(high)}


def _markdown(name: str, result: dict[str, Any]) -> str:
    p = result["protocol"]
    lines = ["| | " + " | ".join(METRICS) + " | steps | minutes | seed | length |",
             "|---|" + "---|" * (len(METRICS) + 4)]  # fmt: skip
    for run in result["runs"]:
        cells = []
        for key in METRICS:
            found = run["metrics"][key]
            spread = "" if found["low"] is None else f" ({found['low']:.4f} to {found['high']:.4f})"
            cells.append(f"{found['value']:.4f}{spread}")
        lines.append(
            f"| **{run['run']}** | {' | '.join(cells)} | {run['steps']} | {run['minutes']:.0f} "
            f"| {run['seed']} | {run['max_length']} |"
        )
    for baseline, found in result["baselines"].items():
        cells = [f"{found[key]:.4f}" for key in METRICS]
        lines.append(f"| {baseline} | {' | '.join(cells)} | | | | |")
    for reference, value in result["published"].items():
        lines.append(f"| {reference} (published) | {value} |" + " |" * (len(METRICS) + 3))
    text = (
        heading(f"Ranking quality: {name}", result)
        + f"Exact ranks over all {p['catalogue']:,} items, {p['split']} split, {p['targets']:,} "
        f"targets of {p['users']:,} users, items of the history "
        f"{'left out' if p['mask_seen'] else 'ranked too'}; ties: {p['ties']}. 95 % intervals by "
        "bootstrap over users. Minutes: wall time of training on this machine.\n\n"
        + "\n".join(lines) + "\n"
    )  # fmt: skip
    if result["against"] is not None:
        for run in result["runs"]:
            found = result["against"][run["run"]]
            text += (
                f"\n{run['run']} against {result['against']['run']}: NDCG@10 {found['gain']:+.1%} "
                f"({found['low']:+.1%} to {found['high']:+.1%}, paired bootstrap).\n"
            )
    return text


if __name__ == "__main__":
    main()
