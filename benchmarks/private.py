"""What user-level differential privacy costs: ε against ranking and against a membership attack.

::

    python benchmarks/private.py JOB.yaml --task '{kind: next_item}' [--epsilons 2,8,32]
        [--both KEY=VALUE …] [--open KEY=VALUE …] [--private KEY=VALUE …] [--storage DIR]

One fine-tuning from random weights, without privacy and with each ε. The model ranks alone. Beside
NDCG@10 stands the AUC of ``p5dist privacy``: 0.5 if the model remembers nothing of its users.
``--both`` has settings of the stage in all runs, ``--open`` and ``--private`` of those without and
with privacy. ``NOISE_KEY`` has the key of the noise (left out: a key of this process, so that runs
cannot be repeated). Runs that are complete are not repeated. One worker with one thread;
``nice -n 15`` leaves the machine to others.
"""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path
from typing import Any

from outcome import RESULTS, circumstances, heading, write

import p5dist
from p5dist.config import load_job
from p5dist.inference.membership import attack
from p5dist.storage import Folder, RunFolder

STAGE = "finetune/private"
METRIC = "ndcg@10"


def main() -> None:
    """Train what is missing, evaluate, attack, write the result."""
    a = _arguments()
    os.environ.setdefault("NOISE_KEY", secrets.token_hex(32))
    name = load_job(a.job, a.set).name
    p5dist.run(a.job, ["prepare"], overrides=[f"storage={a.storage}", *a.set])
    epsilons = [float(epsilon) for epsilon in a.epsilons.split(",")]
    found = {"none": _run(a, name, None)} | {f"{e:g}": _run(a, name, e) for e in epsilons}
    evaluation = p5dist.load(Path(a.storage, f"{name}-eps-none")).evaluation
    result = {
        "question": f"privacy and NDCG@10 on {name}: {a.task}",
        "settings": {"job": Path(a.job).name, "task": a.task, "both": a.both, "open": a.open,
                     "private": a.private, "overrides": a.set},
        "protocol": evaluation["protocol"],
        "baselines": {n: b.get(METRIC) for n, b in evaluation["baselines"].items()},
        "better": {}, "arms": found,
        **circumstances("private.py", ("p5dist", "torch", "torchrec", "dp-accounting")),
    }  # fmt: skip
    write(f"private_{name}", result, _markdown(result), a.out, draw=lambda *_: False)


def _run(a: argparse.Namespace, name: str, epsilon: float | None) -> dict[str, Any]:
    """Train, evaluate and attack one run; read it if it is there."""
    run = f"{name}-eps-{'none' if epsilon is None else f'{epsilon:g}'}"
    section = "finetune.private"
    overrides = [
        f"storage={a.storage}", *a.set, f"name={run}", f"data_of={name}", "pretrain=null",
        f"finetune={{private: {{task: {a.task}, init_from: null, epochs: 1}}}}",
        *(f"{section}.{setting}" for setting in a.both),
        *(f"{section}.{setting}" for setting in (a.open if epsilon is None else a.private)),
        "ranking.item_to_item=0", "ranking.returns=false", "recommend=null", "report=null",
        "scale.workers=1",
    ]  # fmt: skip
    if epsilon is not None:
        overrides.append(f"{section}.privacy={{epsilon: {epsilon:g}, key: NOISE_KEY}}")
    p5dist.run(a.job, [], overrides=overrides)
    folder = RunFolder.at(Folder.open(str(Path(a.storage, run))))
    loaded = p5dist.load(Path(a.storage, run))
    trained = (folder.training(STAGE) / "result.json").read_json()
    kept = folder.root / "attack.json"
    if not kept.exists():
        kept.write_json(attack(loaded.job, folder, STAGE))
    metric = loaded.evaluation["metrics"][METRIC]
    return {
        METRIC: {key: metric[key] for key in ("value", "low", "high")},
        "attack": kept.read_json(), "steps": trained["steps"], "seconds": trained["seconds"],
        "checkpoint": trained["checkpoint"], "privacy": trained.get("privacy"),
    }  # fmt: skip


def _markdown(result: dict[str, Any]) -> str:
    protocol = result["protocol"]
    baselines = ", ".join(
        f"{name} {value:.4f}" for name, value in result["baselines"].items() if value is not None
    )
    control = result["arms"]["none"]["attack"]["control"]
    head = (
        heading(result["question"], result)
        + f"{protocol['targets']:,} {protocol['split']} targets among {protocol['catalogue']:,} "
        f"items, mask_seen {protocol['mask_seen']}, one seed; the model ranks alone. Baselines: "
        f"{baselines}. AUC of the attack on popularity: {control['auc']:.3f}.\n\n"
        "| ε | noise | epochs | users clipped | NDCG@10 (95 %) | AUC of the attack (95 %) | "
        "seconds of training |\n|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for epsilon, arm in result["arms"].items():
        spent, attacked, metric = arm["privacy"], arm["attack"], arm[METRIC]
        cells = ["not private", "–", "–", "–"]
        if spent is not None:
            clipped = list(spent["clipped"].values())
            cells = [epsilon, f"{spent['noise']:.2f}", str(spent["epochs"]),
                     f"{sum(clipped) / len(clipped):.0%}"]  # fmt: skip
        cells += [
            f"{metric['value']:.4f} ({metric['low']:.4f} to {metric['high']:.4f})",
            f"{attacked['auc']:.3f} ({attacked['low']:.3f} to {attacked['high']:.3f})",
            f"{arm['seconds']:.0f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return head + "\n".join(rows) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", help="job file whose data and model are taken")
    parser.add_argument("--task", default="{kind: next_item}")
    parser.add_argument("--epsilons", default="2,8,32")
    parser.add_argument("--both", nargs="*", default=[], metavar="KEY=VALUE",
                        help="settings of the stage in all runs")  # fmt: skip
    parser.add_argument("--open", nargs="*", default=[], metavar="KEY=VALUE",
                        help="settings of the stage without privacy")  # fmt: skip
    parser.add_argument("--private", nargs="*", default=[], metavar="KEY=VALUE",
                        help="settings of the private stages")  # fmt: skip
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
