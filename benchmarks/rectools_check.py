"""The metrics of ``p5dist evaluate`` beside those of RecTools for the same vectors.

::

    P5DIST_DATA=/data python benchmarks/rectools_check.py --rectools-python /venv/bin/python

For every data set a small model is prepared, trained and evaluated. RecTools gets the vectors of
the evaluated histories and of all items, ranks them with its own ranker and its own filter of seen
items, and computes its own metrics. Each metric is compared with evaluate/result.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from outcome import RESULTS, circumstances, heading, write
from workload import p5dist, write_job

from p5dist.config import RunConfig, load_job
from p5dist.data import columns as c
from p5dist.data.jagged import Ints, Jagged
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.inference.evaluate.score import rule_of
from p5dist.inference.scorer import load_scorer
from p5dist.ranking.targets import Targets
from p5dist.storage import RunFolder

KS = (1, 5, 10, 20)
TOLERANCE = 1e-6
WITHOUT_COUNTERPART = ("gini", "accuracy")
VALUES = Path(__file__).with_name("rectools_values.py")
RATIO = {"kind": "ratio", "test": 0.2}


def sources(data: Path) -> dict[str, dict[str, Any]]:
    """By name of a case: prepare, evaluate, and steps of training."""
    movies = {
        "files": str(data / "ml-100k/u.data"), "format": "tsv",
        "names": ["user_id", "item_id", "rating", "timestamp"],
        "columns": {"timestamp": "timestamp"},
    }  # fmt: skip
    beauty = {"files": str(data / "beauty/sequences.txt"), "format": "sequences"}
    shop = {
        "files": str(data / "retailrocket/events.csv"),
        "columns": {"user": "user", "item": "item"},
    }
    return {
        "ml-100k": {"prepare": {"source": movies, "split": RATIO}},
        "beauty": {"prepare": {"source": beauty}},
        "retailrocket": {"prepare": {"source": shop, "split": RATIO}},
        "retailrocket-seen": {
            "prepare": {"source": shop, "split": RATIO},
            "evaluate": {"mask_seen": False},
        },
    }


def main() -> None:
    """Train, evaluate, compare, write the result."""
    arguments = _arguments()
    cases: dict[str, Any] = {}
    for name, sections in sources(arguments.data).items():
        if arguments.cases and name not in arguments.cases:
            continue
        place: Path = arguments.work / name
        place.mkdir(parents=True, exist_ok=True)
        job = _run(name, place, sections, arguments.steps)
        cases[name] = _compared(job, place, arguments.rectools_python)
        print(name, json.dumps(cases[name]["largest difference"]), flush=True)
    result = {
        "question": "metrics of p5dist evaluate beside RecTools for the same vectors",
        "settings": {"k": KS, "steps": arguments.steps, "tolerance": TOLERANCE, "dim": 32},
        "cases": cases,
        **circumstances("rectools_check.py", ("p5dist", "torch", "torchrec")),
    }
    result["versions"]["rectools"] = _version(arguments.rectools_python)
    write("rectools_check", result, _markdown(result), arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rectools-python", required=True, help="interpreter with RecTools")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("P5DIST_DATA", "data")))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-check")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _run(name: str, place: Path, sections: dict[str, Any], steps: int) -> RunConfig:
    """Prepare, train and evaluate a small model."""
    job = {
        "name": name,
        "storage": str(place),
        "feed": {"max_length": 50},
        "model": {"dim": 32, "encoder": {"kind": "transformer", "layers": 1, "heads": 2}},
        "pretrain": {"steps": steps, "batch_size": 128},
        "recommend": None,
        "report": None,
        "scale": {"workers": 1},
        **sections,
        "evaluate": {"k": KS, "bootstrap": 0, **sections.get("evaluate", {})},
    }
    file = write_job(place / "job.json", job)
    p5dist("run", str(file), "--fresh", mark=name)
    return load_job(file)


def _compared(job: RunConfig, place: Path, python: str) -> dict[str, Any]:
    """Every metric by p5dist and by RecTools, and the targets whose ranks differ."""
    folder = RunFolder.of_job(job)
    result = (folder.evaluate / "result.json").read_json()
    arrays = _arrays(job, folder)
    np.savez(place / "given.npz", **arrays)
    words = [python, str(VALUES), str(place / "given.npz"), str(place / "ranks.npy")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"RecTools ended with {done.returncode}:\n{done.stderr[-3000:]}")
    theirs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    ours = {name: m["value"] for name, m in result["metrics"].items()}
    metrics = {name: {"p5dist": ours[name], "rectools": theirs[name]} for name in ours
               if name in theirs}  # fmt: skip
    left = {name.split("@")[0] for name in ours if name not in theirs}
    assert left == set(WITHOUT_COUNTERPART), left
    differences = {name: abs(m["p5dist"] - m["rectools"]) for name, m in metrics.items()}
    twice = {
        name.removeprefix("twice "): value
        for name, value in theirs.items()
        if name.startswith("twice ")
    }
    table = (folder.evaluate / "targets.parquet").read_table()
    rank = np.asarray(pc.fill_null(table[c.RANK], 0)).astype(np.int64)
    rank = np.where(rank > max(KS), 0, rank)
    assert np.array_equal(np.asarray(table[c.ITEM]), arrays["target"]), "targets are in order"
    order = _first_of_each(arrays["owner"], arrays["target"])
    protocol = result["protocol"]
    return {
        "targets": protocol["targets"],
        "lists": protocol["lists"],
        "repeats": protocol["repeats"],
        "targets twice in a list": int(len(rank) - len(order)),
        "mask_seen": protocol["mask_seen"],
        "items": protocol["catalogue"],
        "ranks that differ": int((rank != np.load(place / "ranks.npy")).sum()),
        "largest difference": max(differences.values()),
        "largest difference if a target twice in a list counts as two": max(
            abs(ours[name] - value) for name, value in twice.items()
        ),
        "metrics": metrics,
    }


def _arrays(job: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """What rectools_values.py reads."""
    assert job.evaluate is not None
    manifest = Manifest.load(folder.prepare)
    scorer = load_scorer(job, folder, "pretrain")
    assert not len(scorer.catalogue.absent), "RecTools would rank ids that no item has"
    reader = ShardReader(folder.prepare, manifest, job.history_columns())
    users, seen, owner, target, known_user, known_item = [], [], [], [], [], []
    first = 0
    for portion in reader.portions(1 << 20):
        whole = reader.users(portion)
        train = whole.histories.where(whole.histories.split == c.TRAIN)
        known_user.append(train.user[train.owner()])
        known_item.append(train.item)
        for batch in Targets.find(whole, rule_of(job, job.evaluate, manifest)).batches(1024):
            users.append(scorer.user_vectors(batch.histories))
            seen.append(batch.seen)
            owner.append(batch.owner + first)
            target.append(batch.item)
            first += len(batch.histories)
    hidden = Jagged.concat(seen)
    nothing = np.zeros(0, dtype=np.int64)
    return {
        "users": torch.cat(users).numpy(),
        "items": scorer.item_vectors().numpy(),
        "offsets": hidden.offsets,
        "seen": hidden.values if job.evaluate.mask_seen else nothing,
        "owner": np.concatenate(owner),
        "target": np.concatenate(target),
        "train_user": np.concatenate(known_user),
        "train_item": np.concatenate(known_item),
        "ks": np.array(KS),
    }


def _first_of_each(owner: Ints, item: Ints) -> Ints:
    """Indices of the targets that are not in the list a second time."""
    index: Ints = np.unique(owner * (item.max() + 1) + item, return_index=True)[1]
    return index


def _version(python: str) -> str:
    code = "from importlib import metadata; print(metadata.version('rectools'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _markdown(result: dict[str, Any]) -> str:
    cases = result["cases"]
    lines = ["| | " + " | ".join(cases) + " |", "|---|" + "---|" * len(cases)]
    for about in (
        "items", "lists", "targets", "repeats", "targets twice in a list", "ranks that differ",
    ):  # fmt: skip
        lines.append(
            f"| {about} | " + " | ".join(f"{one[about]:,}" for one in cases.values()) + " |"
        )
    for about in (
        "largest difference", "largest difference if a target twice in a list counts as two",
    ):  # fmt: skip
        cells = " | ".join(f"{one[about]:.1e}" for one in cases.values())
        lines.append(f"| {about} | {cells} |")
    shown = [n for n in next(iter(cases.values()))["metrics"] if n.endswith("@10")]
    table = ["| metric | " + " | ".join(cases) + " |", "|---|" + "---|" * len(cases)]
    for name in shown:
        cells = []
        for one in cases.values():
            m = one["metrics"][name]
            same = abs(m["p5dist"] - m["rectools"]) <= TOLERANCE
            cells.append(f"{m['p5dist']:.6f}" + ("" if same else f" / {m['rectools']:.6f}"))
        table.append(f"| {name} | " + " | ".join(cells) + " |")
    return (
        heading("Metrics of p5dist evaluate beside RecTools", result)
        + "RecTools ranks the vectors of the same trained models (`ImplicitRanker`, its own filter "
        "of seen items) and computes HitRate, MRR, NDCG (`divide_by_achievable`), Precision, "
        "Recall, MAP, Serendipity, AvgRecPopularity, MeanInvUserFreq, IntraListDiversity and "
        f"CatalogCoverage at k = {', '.join(map(str, KS))}. hr, mrr and ndcg are compared with "
        "every target as the only one of a list; the others with one list per user, in which a "
        "target counts once. `gini` and `accuracy` have no counterpart.\n\n"
        + "\n".join(lines)
        + f"\n\nOne number: both agree to {TOLERANCE:.0e}; two: p5dist / RecTools. All k are in "
        "the JSON file.\n\n" + "\n".join(table) + "\n"
    )


if __name__ == "__main__":
    main()
