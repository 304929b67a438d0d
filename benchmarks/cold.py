"""Items that training has never seen, ranked through their attributes.

::

    python benchmarks/cold.py jobs/beauty.yaml --share 0.05 [a.b=1 …]

A job over ``sequences`` and item attributes is trained on histories from which a share of the items
(drawn with the seed) is removed. Targets are last interactions with a removed item; they are ranked
among the removed items only, from the rest of the history. Baselines: the expectation of a random
order, the popularity of an item's attributes (mean training interactions of its values), and the
overlap with the attributes of the history (cosine of the counts).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from outcome import RESULTS, circumstances, heading, write
from workload import p5dist

from p5dist.config import RunConfig, load_job
from p5dist.data import columns as c
from p5dist.data.attributes import Attributes
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.inference.scorer import load_scorer
from p5dist.ranking.metrics import estimate, rank_values
from p5dist.ranking.targets import Rule, TargetBatch, Targets
from p5dist.storage import RunFolder

Floats = npt.NDArray[np.float64]
K = 10


def main() -> None:
    """Make the data, train, rank, write the result."""
    arguments = _arguments()
    job = load_job(arguments.job, arguments.overrides)
    place: Path = arguments.data / job.name
    place.mkdir(parents=True, exist_ok=True)
    assert isinstance(job.prepare.source.files, str), "one file of sequences"
    removed = _remove(Path(job.prepare.source.files), place, arguments.share, job.seed)
    overrides = [
        *arguments.overrides, f"storage={place}", f"prepare.source.files={place}/train.txt",
        f"prepare.split={{kind: given, test: {place}/test.txt}}", "prepare.vocabulary={of: all}",
        "pretrain.validation=null", "evaluate=null", "recommend=null", "report=null",
    ]  # fmt: skip
    p5dist("run", str(arguments.job), *overrides)
    job = load_job(arguments.job, overrides)
    folder = RunFolder.of(job.storage, job.name)
    targets, cold, scores = _scores(job, folder)
    places = 1 / np.log2(np.arange(2, K + 2))
    result = {
        "question": f"items never seen in training: {job.name}",
        "settings": {
            "share": arguments.share, "removed": removed, "candidates": len(cold),
            "targets": len(targets.item), "seed": job.seed, "max_length": job.feed.max_length,
            "steps": [training.steps for training in job.trainings().values()],
            "overrides": arguments.overrides,
        },
        "at random": {"ndcg@10": float(places.sum()) / len(cold), "hr@10": K / len(cold)},
        "metrics": {name: _metrics(score, targets, cold, job.seed)
                    for name, score in scores.items()},
        **circumstances("cold.py", ("p5dist", "torch", "torchrec")),
    }  # fmt: skip
    write(f"cold_{job.name}", result, _markdown(job.name, result), arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="a.b=1")
    parser.add_argument("--share", type=float, default=0.05, help="of the items")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-cold")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _remove(sequences: Path, place: Path, share: float, seed: int) -> int:
    """Write train.txt without the removed items and test.txt with removed last items; returns the
    number of removed items."""
    histories = [line.split() for line in sequences.read_text().splitlines()]
    items = sorted({item for _, *own in histories for item in own})
    drawn = np.random.default_rng(seed).choice(len(items), round(share * len(items)), False)
    removed = {items[i] for i in drawn}
    train, test = [], []
    for user, *own in histories:
        kept = [item for item in own if item not in removed]
        train.append(" ".join([user, *kept]))
        if own[-1] in removed and kept:
            test.append(f"{user} {own[-1]}")
    (place / "train.txt").write_text("\n".join(train) + "\n")
    (place / "test.txt").write_text("\n".join(test) + "\n")
    return len(removed)


def _scores(job: RunConfig, folder: RunFolder) -> tuple[TargetBatch, Ints, dict[str, Floats]]:
    """Targets, the ids of the C items without a training interaction, and the scores [M, C] of
    these items by ranker."""
    manifest = Manifest.load(folder.prepare)
    reader = ShardReader(folder.prepare, manifest, job.history_columns())
    portions = reader.portions(1 << 20)
    assert len(portions) == 1, "a data set of less than a million users"
    users = reader.users(portions[0])
    (targets,) = Targets.find(users, Rule(c.TEST, sessions=False)).batches(1 << 20)
    train = users.histories.where(users.histories.split == c.TRAIN)
    count = np.bincount(train.item, minlength=manifest.items + 1)[1:]
    cold = np.flatnonzero(count == 0) + 1
    attributes = Attributes.load(folder.prepare, "item", job.model.item_attributes)
    assert attributes is not None, "the model has item attributes"
    has = _matrix(attributes, manifest.items)
    popular = has.T @ count / np.maximum(has.sum(0), 1)
    by_popularity = has[cold - 1] @ popular / np.maximum(has[cold - 1].sum(1), 1)
    profile = np.stack([has[own - 1].sum(0) for own in _histories(targets)])
    overlap = (profile / _norm(profile)) @ (has[cold - 1] / _norm(has[cold - 1])).T
    scorer = load_scorer(job, folder, job.ranking_stages()[-1])
    vectors = scorer.item_vectors()[cold - 1]
    own = targets.histories
    model = np.concatenate(
        [(scorer.user_vectors(own.take(part)) @ vectors.T).numpy()
         for part in np.array_split(np.arange(len(own)), len(own) // 1024 + 1)]
    )  # fmt: skip
    return (
        targets,
        cold,
        {
            "p5dist": model,
            "overlap of attributes": overlap,
            "popularity of attributes": np.broadcast_to(by_popularity, model.shape),
        },
    )


def _histories(targets: TargetBatch) -> list[Ints]:
    """Item ids of the history of each target."""
    own = targets.histories
    return [own.item[own.offsets[i] : own.offsets[i + 1]] for i in targets.owner]


def _matrix(attributes: Attributes, items: int) -> Floats:
    """[items, values of all attributes] 1 if the item has the value."""
    ids, parts = np.arange(1, items + 1), []
    for offsets, values in zip(attributes.offsets, attributes.values, strict=True):
        part = np.zeros((items, int(values.max(initial=0)) + 1))
        part[np.repeat(ids - 1, np.diff(offsets)[ids]), values[offsets[1] :]] = 1
        parts.append(part)
    return np.concatenate(parts, axis=1)


def _norm(rows: Floats) -> Floats:
    norm: Floats = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.maximum(norm, 1e-12)


def _metrics(score: Floats, targets: TargetBatch, cold: Ints, seed: int) -> dict[str, Any]:
    """Metrics of the ranks among the cold items; of equal scores the lower id comes first."""
    at = np.searchsorted(cold, targets.item)
    own = score[np.arange(len(at)), at][:, None]
    before = (score == own) & (np.arange(len(cold)) < at[:, None])
    rank = 1 + (score > own).sum(1) + before.sum(1)
    found = estimate(rank_values(rank, (K,)), targets.user, resamples=1000, seed=seed)
    return {name: asdict(found[name]) for name in ("ndcg@10", "hr@10")}


def _markdown(name: str, result: dict[str, Any]) -> str:
    s = result["settings"]
    lines = ["| | ndcg@10 | hr@10 |", "|---|---|---|"]
    for ranker, found in result["metrics"].items():
        cells = [f"{m['value']:.4f} ({m['low']:.4f} to {m['high']:.4f})" for m in found.values()]
        lines.append(f"| {ranker} | {' | '.join(cells)} |")
    random = [f"{value:.4f}" for value in result["at random"].values()]
    lines.append(f"| at random (expected) | {' | '.join(random)} |")
    return (
        heading(f"Items never seen in training: {name}", result)
        + f"{s['removed']:,} items ({s['share']:.0%}) were removed from all training histories; "
        f"the {s['targets']:,} targets are last interactions with one of them, ranked among the "
        f"{s['candidates']:,} that occur as a target. {' + '.join(f'{n:,}' for n in s['steps'])} "
        f"steps, seed {s['seed']}, length {s['max_length']}; of equal scores the lower id first; "
        "95 % intervals by bootstrap over users.\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
