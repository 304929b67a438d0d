"""Quality of finished runs of one data set, with baselines and published figures.

::

    p5dist run jobs/beauty.yaml …
    python benchmarks/quality.py beauty runs/beauty [MORE RUNS …] [--against runs/scratch]
        [--of ranking | rating | click] [--published "SASRec+CE=0.0531" …] [--note TEXT]

Runs must have the same protocol: split, catalogue, masking, targets. ``--against RUN`` compares
each run with RUN by the NDCG@10 of every target (paired bootstrap). Published figures are values of
the first metric.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from outcome import RESULTS, circumstances, heading, write

from p5dist.data import columns as c
from p5dist.storage import Folder

METRICS = {
    "ranking": ("ndcg@10", "hr@10", "mrr@10", "coverage@10"),
    "rating": ("rmse", "mae"),
    "click": ("auc", "logloss", "calibration"),
}
ALONE = "model_alone"
SAME = ("split", "catalogue", "mask_seen", "ties", "users", "targets")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Run:
    """An evaluated run."""

    folder: Folder
    evaluation: dict[str, Any]
    minutes: float
    """Seconds of training: pre-training and the measured stage."""
    steps: str

    @classmethod
    def read(cls, place: str, of: str) -> Run:
        """
        Args:
            of: a key of METRICS.
        """
        folder = Folder.open(place)
        evaluation = (folder / "evaluate/result.json").read_json()
        stage = evaluation["protocol"][f"{of}_from"]
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
    parser.add_argument("--of", choices=METRICS, default="ranking")
    parser.add_argument("--published", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--note", default="", help="below the table, such as commands of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = [Run.read(place, arguments.of) for place in arguments.runs]
    other = None if arguments.against is None else Run.read(arguments.against, arguments.of)
    for run in [*runs, *([other] if other else [])]:
        if run.protocol != runs[0].protocol:
            parser.error(f"{run.folder} has another protocol: {run.protocol}, {runs[0].protocol}")
    result = {
        "question": f"{arguments.of} quality on {arguments.name}",
        "of": arguments.of,
        "protocol": runs[0].protocol,
        "runs": [
            {
                "run": run.folder.name, "metrics": run.evaluation["metrics"],
                "alone": run.evaluation["baselines"].get(ALONE),
                "item_to_item": run.evaluation["protocol"].get("ranking_item_to_item", 0.0),
                "minutes": run.minutes, "steps": run.steps,
                "seed": run.evaluation["protocol"]["seed"],
                "max_length": run.evaluation["protocol"]["max_length"],
            } for run in runs
        ],
        "baselines": {
            n: found for n, found in runs[0].evaluation["baselines"].items() if n != ALONE
        },
        "note": arguments.note,
        "published": dict(pair.rsplit("=", 1) for pair in arguments.published),
        "against": None if other is None else {
            "run": other.folder.name, **{r.folder.name: _compare(r, other) for r in runs}
        },
        **circumstances("quality.py", ("p5dist", "torch", "torchrec")),
        "command": _command(arguments.note),
    }  # fmt: skip
    write(f"quality_{arguments.name}", result, _markdown(arguments.name, result), arguments.out)


def _command(note: str) -> str:
    """The command without the note, which stands below the table."""
    words = [word for word in sys.argv[1:] if word not in ("--note", note)]
    return shlex.join(["python", "benchmarks/quality.py", *words])


def _compare(run: Run, other: Run) -> dict[str, float]:
    """Relative gain of the mean NDCG@10 with its 95 % interval: targets are resampled, the same for
    both runs (paired bootstrap, Efron and Tibshirani 1993)."""
    ours, theirs = run.gains(), other.gains()
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(ours), len(ours))
        gains.append(ours[drawn].mean() / theirs[drawn].mean() - 1)
    low, high = np.percentile(gains, [2.5, 97.5])
    return {"gain": ours.mean() / theirs.mean() - 1, "low": float(low), "high": float(high)}


def _markdown(name: str, result: dict[str, Any]) -> str:
    p, keys = result["protocol"], METRICS[result["of"]]
    blank = " |" * 4
    lines = ["| | " + " | ".join(keys) + " | steps | minutes | seed | length |",
             "|---|" + "---|" * (len(keys) + 4)]  # fmt: skip
    for run in result["runs"]:
        cells = []
        for key in keys:
            found = run["metrics"][key]
            spread = "" if found["low"] is None else f" ({found['low']:.4f} to {found['high']:.4f})"
            cells.append(f"{found['value']:.4f}{spread}")
        title = run["run"]
        if run["alone"] is not None:
            title += f", {run['item_to_item']:.0%} item to item"
        lines.append(
            f"| **{title}** | {' | '.join(cells)} | {run['steps']} | {run['minutes']:.0f} "
            f"| {run['seed']} | {run['max_length']} |"
        )
        if run["alone"] is not None:
            cells = [f"{run['alone'][key]:.4f}" for key in keys]
            lines.append(f"| {run['run']}, the model alone | {' | '.join(cells)} |{blank}")
    for baseline, found in result["baselines"].items():
        if keys[0] in found:
            cells = [f"{found[key]:.4f}" if key in found else "" for key in keys]
            lines.append(f"| {baseline} | {' | '.join(cells)} |{blank}")
    for reference, value in result["published"].items():
        lines.append(f"| {reference} (published) | {value} |" + " |" * (len(keys) - 1) + blank)
    about = {
        "ranking": f"Exact ranks over all {p['catalogue']:,} items, items of the history "
        f"{'left out' if p['mask_seen'] else 'ranked too'}; ties: {p['ties']}.",
        "rating": "Predicted ratings of the test interactions.",
        "click": "Predicted probabilities of the labels of the test interactions.",
    }
    text = (
        heading(f"{result['of'].capitalize()} quality: {name}", result)
        + f"{about[result['of']]} Split: {p['split']}, {p['targets']:,} targets of {p['users']:,} "
        "users. 95 % intervals by bootstrap over users. Minutes: wall time of training on this "
        "machine.\n\n" + "\n".join(lines) + "\n"
    )  # fmt: skip
    if result["against"] is not None:
        for run in result["runs"]:
            found = result["against"][run["run"]]
            text += (
                f"\n{run['run']} against {result['against']['run']}: NDCG@10 {found['gain']:+.1%} "
                f"({found['low']:+.1%} to {found['high']:+.1%}, paired bootstrap).\n"
            )
    return text + (f"\n{result['note']}\n" if result["note"] else "")


if __name__ == "__main__":
    main()
