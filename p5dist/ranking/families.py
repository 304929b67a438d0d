"""The families of segments that the targets of a run are divided into."""

from __future__ import annotations

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.attributes import Attributes
from p5dist.data.jagged import Bools, Ints
from p5dist.data.manifest import Manifest
from p5dist.ranking.segments import (
    Segments,
    by_attribute,
    by_history_length,
    by_popularity,
    by_repetition,
    by_time,
    by_training,
)
from p5dist.storage import Folder

_VALUES = 30
"""Attributes with more values are not segments unless ``evaluate.segments_by`` names them."""


def families(
    job: RunConfig,
    prepare: Folder,
    manifest: Manifest,
    count: Ints,
    item: Ints,
    history_length: Ints,
    timestamp: Ints,
    repeated: Bools,
) -> list[Segments]:
    """By whether the user had the item before (if there are such targets), history length,
    popularity, training, time (of a log with times), item attributes.

    Args:
        count: [L] training interactions of each id 1…L.
        item, history_length, timestamp, repeated: [M] of the targets.
    """
    found = [by_repetition(repeated)] if repeated.any() else []
    found += [
        by_history_length(history_length), by_popularity(item, count), by_training(item, count)
    ]  # fmt: skip
    if job.prepare.source.columns.timestamp is not None:
        found.append(by_time(timestamp))
    names = _attributes(job, manifest)
    attributes = Attributes.load(prepare, "item", names)
    if attributes is not None:
        for name, offsets, values in zip(names, attributes.offsets, attributes.values, strict=True):
            file = prepare / f"vocabulary/item.{name}.parquet"
            labels = file.read_table([c.EXTERNAL_ID])[c.EXTERNAL_ID].to_pylist()
            found.append(by_attribute(name, item, offsets, values, list(map(str, labels))))
    return found


def _attributes(job: RunConfig, manifest: Manifest) -> tuple[str, ...]:
    if job.evaluate is not None and job.evaluate.segments_by is not None:
        return job.evaluate.segments_by
    sizes = manifest.item_attributes
    return tuple(n for n in job.readable_attributes("items") if 0 < sizes.get(n, 0) <= _VALUES)
