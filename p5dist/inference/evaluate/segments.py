"""The ranking by segments of targets, and how much of the lists is head and tail."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.attributes import Attributes
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.inference.counting import Counted
from p5dist.inference.evaluate.found import Found
from p5dist.inference.evaluate.score import HISTORY_LENGTH
from p5dist.inference.rankers import MODEL
from p5dist.ranking.metrics import rank_values
from p5dist.ranking.results import main_k
from p5dist.ranking.segments import (
    PARTS,
    Segments,
    by_attribute,
    by_history_length,
    by_popularity,
    by_time,
    by_training,
    popularity_part,
    segment_metrics,
)
from p5dist.storage import Folder, RunFolder

_METRICS = ("hr", "ndcg")
_VALUES = 30
"""Attributes with more values are not segments unless ``evaluate.segments_by`` names them."""


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
    for family in _families(job, folder.prepare, manifest, found, counted):
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


def _families(
    job: RunConfig, prepare: Folder, manifest: Manifest, found: Found, counted: Counted
) -> list[Segments]:
    item = found.values[c.ITEM]
    families = [
        by_history_length(found.values[HISTORY_LENGTH]),
        by_popularity(item, counted.count),
        by_training(item, counted.count),
    ]
    if job.prepare.source.columns.timestamp is not None:
        families.append(by_time(found.values[c.TIMESTAMP]))
    names = _attributes(job, manifest)
    attributes = Attributes.load(prepare, "item", names)
    if attributes is not None:
        for name, offsets, values in zip(names, attributes.offsets, attributes.values, strict=True):
            file = prepare / f"vocabulary/item.{name}.parquet"
            labels = file.read_table([c.EXTERNAL_ID])[c.EXTERNAL_ID].to_pylist()
            families.append(by_attribute(name, item, offsets, values, list(map(str, labels))))
    return families


def _attributes(job: RunConfig, manifest: Manifest) -> tuple[str, ...]:
    assert job.evaluate is not None
    if job.evaluate.segments_by is not None:
        return job.evaluate.segments_by
    sizes = manifest.item_attributes
    return tuple(n for n in job.readable_attributes("items") if 0 < sizes.get(n, 0) <= _VALUES)


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
