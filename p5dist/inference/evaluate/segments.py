"""The ranking by segments of targets, and how much of the lists is head and tail."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.inference.counting import Counted
from p5dist.inference.evaluate.found import Found
from p5dist.inference.evaluate.score import HISTORY_LENGTH, REPEATED
from p5dist.inference.rankers import MODEL
from p5dist.ranking.families import families
from p5dist.ranking.metrics import rank_values
from p5dist.ranking.results import main_k
from p5dist.ranking.segments import PARTS, popularity_part, segment_metrics
from p5dist.storage import RunFolder

_METRICS = ("hr", "ndcg")


def of_segments(
    job: RunConfig, folder: RunFolder, manifest: Manifest, found: Found, counted: Counted
) -> dict[str, Any]:
    """The keys ``segments`` and ``long_tail`` of result.json, both at one k (see
    :func:`.results.main_k`).

    ``segments``: by family the segments that have a target, each with its targets, its users, the
    metrics of the model with intervals, and those of the baselines. ``long_tail``: for head, middle
    and tail of the catalogue the share of the items, of the training interactions, of the targets,
    and by ranker of the listed items.
    """
    k = main_k(found.ks)
    user = found.values[c.USER]
    ranked = {}
    for name in found.listed:
        values = rank_values(found.rank(name), (k,))
        ranked[name] = {f"{metric}@{k}": values[f"{metric}@{k}"] for metric in _METRICS}
    entries = []
    timestamp = found.values[c.TIMESTAMP]
    for family in families(
        job, folder.prepare, manifest, counted.count, found.values[c.ITEM],
        found.values[HISTORY_LENGTH], timestamp, found.values[REPEATED],
    ):  # fmt: skip
        by_ranker = {name: segment_metrics(v, user, family) for name, v in ranked.items()}
        segments = []
        for number, own in enumerate(by_ranker[MODEL]):
            others = {name: s[number].metrics for name, s in by_ranker.items() if name != MODEL}
            segments.append(
                {
                    "label": own.label,
                    "targets": own.targets,
                    "users": own.users,
                    "metrics": {key: asdict(e) for key, e in own.metrics.items()},
                    "baselines": {
                        name: {key: e.value for key, e in values.items()}
                        for name, values in others.items()
                    },
                }
            )
        entries.append({"family": family.family, "segments": segments})
    return {"segments": entries, "long_tail": _long_tail(found, counted, k)}


def _long_tail(found: Found, counted: Counted, k: int) -> dict[str, Any]:
    """The parts of the catalogue, and what share of everything is in them."""
    part, size = popularity_part(counted.count), len(PARTS)

    def shares(ids: Ints, times: Ints | None = None) -> list[float]:
        number = np.bincount(part[ids - 1], times, size)
        return [float(n) for n in number / max(number.sum(), 1)]

    ids = found.catalogue.ids
    of_items, of_training = shares(ids), shares(ids, counted.count[ids - 1])
    of_targets = shares(found.values[c.ITEM])
    listed = {n: shares(*one.counts.times(found.ks.index(k))) for n, one in found.listed.items()}
    parts = [
        {
            "label": label,
            "items": of_items[i],
            "training": of_training[i],
            "targets": of_targets[i],
            "listed": {name: values[i] for name, values in listed.items()},
        }
        for i, label in enumerate(PARTS)
    ]
    return {"k": k, "parts": parts}
