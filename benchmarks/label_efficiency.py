"""Does pre-training pay? A task with few labels: from scratch, beside a task with all events, and
from a pre-trained model.

::

    python benchmarks/label_efficiency.py JOB.yaml --task purchase [--labels 0.01,0.03,0.1,0.3,1]
        [--seeds 5] [--storage DIR] [--set KEY=VALUE …]

scratch     the task alone, from random weights; histories have all events
multi       the task and the prediction of every next interaction at once, from random weights
pretrained  the task, from a model that was pre-trained on every next interaction

The job is prepared once. Every arm has the seeds 1, 2, … of training, and the model ranks alone.
The labels are those of a share of the users, the same for all arms and seeds; those of a smaller
share are among those of a larger one. Runs that are complete are not repeated.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from outcome import RESULTS, circumstances, heading, write
from picture import STYLE

import p5dist
from p5dist.config import load_job
from p5dist.report.compare import compare_runs
from p5dist.storage import Folder, RunFolder

ARMS = ("scratch", "multi", "pretrained")
METRIC = "ndcg@10"
NEW = "new to the user"


def main() -> None:
    """Train what is missing, compare, write the result."""
    a = _arguments()
    shares = [float(share) for share in a.labels.split(",")]
    seeds = list(range(1, a.seeds + 1))
    base = load_job(a.job, a.set)
    name = base.name
    prepared = [f"storage={a.storage}", *a.set]
    p5dist.run(a.job, ["prepare"], overrides=prepared)
    for seed in seeds:
        _run(a, f"{name}-base-seed-{seed}", seed, ["pretrain"], "finetune={}", "evaluate=null")
        for share in shares:
            for arm in ARMS:
                _run(a, _name(name, arm, share, seed), seed, [], *_arm(a, base, arm, share, seed))
    found = {arm: {s: _measured(a, name, arm, s, seeds) for s in shares} for arm in ARMS}
    against = {
        arm: {s: _compared(a, name, arm, s, seeds) for s in shares} for arm in ("scratch", "multi")
    }
    first = p5dist.load(Path(a.storage, _name(name, "pretrained", shares[-1], 1)))
    result = {
        "question": f"labels and NDCG@10 on {name}: {a.task}",
        "settings": {"job": Path(a.job).name, "task": a.task, "labels": shares, "seeds": seeds,
                     "overrides": a.set},
        "protocol": first.evaluation["protocol"],
        "baselines": {n: b.get(METRIC) for n, b in first.evaluation["baselines"].items()},
        "better": {}, "arms": found, "pretrained_against": against,
        **circumstances("label_efficiency.py", ("p5dist", "torch", "torchrec")),
    }  # fmt: skip
    write(f"labels_{name}", result, _markdown(result), a.out, draw=_draw)


def _run(a: argparse.Namespace, run: str, seed: int, stages: list[str], *settings: str) -> None:
    overrides = [
        f"storage={a.storage}", *a.set, f"name={run}", f"data_of={load_job(a.job).name}",
        f"train_seed={seed}", "recommend=null", "report=null", "ranking.item_to_item=0",
        "ranking.returns=false", *settings,
    ]  # fmt: skip
    p5dist.run(a.job, stages, overrides=overrides)


def _arm(a: argparse.Namespace, base: Any, arm: str, share: float, seed: int) -> list[str]:
    """The settings of an arm."""
    stage = f"finetune.{a.task}"
    only = ["pretrain=null"]
    if arm == "pretrained":
        start = Path(a.storage, f"{base.name}-base-seed-{seed}", "pretrain").resolve()
        return [*only, f"{stage}.init_from={start}", f"{stage}.task.labels={share}"]
    only += [f"{stage}.init_from=null", f"{stage}.lr_scale={{}}", f"{stage}.frozen_tables=false",
             f"{stage}.tables.lr={base.pretrain.tables.lr}"]  # fmt: skip
    if arm == "scratch":
        return [*only, f"{stage}.task.labels={share}"]
    task = base.finetune[a.task].task.model_dump_json(exclude_none=True)
    both = f"{{kind: multi, tasks: {{all: {{kind: next_item}}, one: {task}}}}}"
    training = base.pretrain
    length = f"epochs={training.epochs}" if training.epochs else f"steps={training.steps}"
    return [*only, f"{stage}.task={both}", f"{stage}.task.tasks.one.labels={share}",
            f"{stage}.epochs=null", f"{stage}.{length}",
            f"{stage}.validation.every={training.validation.every}",
            f"{stage}.checkpoint.every={training.checkpoint.every}"]  # fmt: skip


def _name(base: str, arm: str, share: float, seed: int) -> str:
    return f"{base}-{arm}-{share:g}-seed-{seed}"


def _measured(
    a: argparse.Namespace, name: str, arm: str, share: float, seeds: list[int]
) -> dict[str, Any]:
    """NDCG@10 by seed, over all targets and over items that are new to the user."""
    every, new, seconds = [], [], 0.0
    for seed in seeds:
        folder = Path(a.storage, _name(name, arm, share, seed))
        evaluation = p5dist.load(folder).evaluation
        every.append(evaluation["metrics"][METRIC]["value"])
        families = {f["family"]: f["segments"] for f in evaluation["segments"]}
        new += [
            s["metrics"][METRIC]["value"] for s in families.get("item", ()) if s["label"] == NEW
        ]
        stage = RunFolder.at(Folder.open(str(folder))).training(f"finetune/{a.task}")
        seconds += (stage / "result.json").read_json()["seconds"]
    return {
        "runs": every, "mean": statistics.mean(every),
        "deviation": statistics.stdev(every) if len(every) > 1 else None,
        "new_items": statistics.mean(new) if new else None, "seconds": seconds / len(seeds),
    }  # fmt: skip


def _compared(
    a: argparse.Namespace, name: str, arm: str, share: float, seeds: list[int]
) -> dict[str, float]:
    """How much better the pre-trained model is, relative to the arm, with an interval of 95 % over
    users and seeds (paired bootstrap)."""
    words = [
        ",".join(str(Path(a.storage, _name(name, one, share, seed))) for seed in seeds)
        for one in (arm, "pretrained")
    ]
    found = next(m for m in compare_runs(words)["metrics"] if m["metric"] == METRIC)
    reference, difference = found["sides"][0]["value"], found["sides"][1]["difference"]
    return {key: difference[key] / reference for key in ("value", "low", "high")}


def _draw(result: dict[str, Any], place: Path) -> bool:
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(5.5, 3.5), layout="constrained")
        ax = figure.subplots()
        for arm, by_share in result["arms"].items():
            shares = sorted(by_share, key=float)
            ax.errorbar(
                [100 * float(s) for s in shares], [by_share[s]["mean"] for s in shares],
                [by_share[s]["deviation"] or 0 for s in shares], marker="o", capsize=3, label=arm,
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_xlabel("users with labels, %")
        ax.set_ylabel("NDCG@10 (mean and deviation of the seeds)")
        ax.legend()
        ax.spines[["top", "right"]].set_visible(False)
        figure.savefig(place, metadata={"Date": None})
    return True


def _markdown(result: dict[str, Any]) -> str:
    protocol, settings = result["protocol"], result["settings"]
    baselines = ", ".join(
        f"{name} {value:.4f}" for name, value in result["baselines"].items() if value is not None
    )
    head = (
        heading(result["question"], result)
        + f"{protocol['targets']:,} {protocol['split']} targets among {protocol['catalogue']:,} "
        f"items, mask_seen {protocol['mask_seen']}, {len(settings['seeds'])} seeds; the model "
        f"ranks alone. Baselines: {baselines}.\n\n"
        "| users with labels | scratch | multi | pretrained | against scratch | against multi | "
        "new items: scratch, multi, pretrained |\n|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for share in settings["labels"]:
        cells = [f"{share:.0%}"]
        for arm in ARMS:
            one = result["arms"][arm][share]
            spread = "" if one["deviation"] is None else f" ± {one['deviation']:.4f}"
            cells.append(f"{one['mean']:.4f}{spread}")
        for arm in ("scratch", "multi"):
            one = result["pretrained_against"][arm][share]
            cells.append(f"{one['value']:+.1%} ({one['low']:+.1%} to {one['high']:+.1%})")
        new = [result["arms"][arm][share]["new_items"] for arm in ARMS]
        cells.append(", ".join("–" if n is None else f"{n:.4f}" for n in new))
        rows.append(f"| {' | '.join(cells)} |")
    return head + "\n".join(rows) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", help="job file with pretrain and the fine-tuning")
    parser.add_argument("--task", required=True, help="name of the fine-tuning")
    parser.add_argument("--labels", default="0.01,0.03,0.1,0.3,1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
