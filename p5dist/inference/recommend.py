"""The recommend stage: the best items for every user, as Parquet with the ids of the raw log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import ray

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.environment.provenance import provenance
from p5dist.errors import ConfigError
from p5dist.inference.actors import Load, Reader, Unit, batches, score_all, training_sample
from p5dist.inference.scorer import load_scorer
from p5dist.ranking.baselines import ItemToItem
from p5dist.ranking.interpolation import Mixture
from p5dist.ranking.topk import Lists, Ranker, VectorRanker, top_k
from p5dist.storage import Folder, RunFolder

RESULT = "result.json"


def run(job: RunConfig, folder: RunFolder, *, load: Load = load_scorer) -> dict[str, Any]:
    """Write ``recommend/part-*.parquet`` (columns.RECOMMENDATION) for all users, then
    ``recommend/result.json``; Ray must be connected.

    The history of a user is everything the log holds, held-out interactions too. A list is shorter
    than k where the user has seen nearly the whole catalogue.

    Args:
        load: gives the trained stage that ranks.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: the job has no stage that ranks items.
        CheckpointError: the stage has no complete checkpoint.
        TrainingError: scores that are not numbers.
    """
    began = time.time()
    assert job.recommend is not None
    stages = job.ranking_stages()
    if not stages:
        raise ConfigError(
            "nothing to recommend with", where="recommend",
            rule="recommending needs a trained stage that ranks items",
            fix="add a pretrain section, or set recommend to null",
        )  # fmt: skip
    stage = job.recommend.ranking_from or stages[-1]
    manifest = Manifest.load(folder.prepare)
    (folder.recommend / RESULT).remove()
    folder.recommend.remove()
    folder.recommend.make()
    rows = users = 0
    plan = Recommend(job, folder, stage, load, _counted(job, folder, manifest))
    for written in score_all(plan, job, folder, manifest, "score", latest=True):
        rows += written["rows"][0].as_py()
        users += written["users"][0].as_py()
    result = {
        "rows": rows,
        "users": users,
        "k": job.recommend.k,
        "mask_seen": job.recommend.mask_seen,
        "ranking_from": stage,
        "ranking_item_to_item": job.ranking.item_to_item,
        **provenance(job, "recommend", data=manifest.fingerprint, seconds=time.time() - began),
    }
    (folder.recommend / RESULT).write_json(result)
    return result


@dataclass(frozen=True)
class Recommend:
    """What is recommended; makes an actor's :class:`ListWriter`."""

    job: RunConfig
    folder: RunFolder
    stage: str
    load: Load
    counted: Any = None
    """Object reference of the fitted ItemToItem; None where the model ranks alone."""

    def __call__(self) -> ListWriter:
        ranker: Ranker = VectorRanker(self.load(self.job, self.folder, self.stage))
        if self.counted is not None:
            ranker = Mixture(ranker, ray.get(self.counted), self.job.ranking.item_to_item)
        return ListWriter(self, ranker)


class ListWriter:
    """Writes the lists of a unit's users as one part file; the result row holds ``users`` and
    ``rows``."""

    def __init__(self, plan: Recommend, ranker: Ranker) -> None:
        self.plan, self.ranker = plan, ranker
        prepare = plan.folder.prepare
        self.items = (prepare / "vocabulary" / "item.parquet").read_table([c.EXTERNAL_ID])
        self.titles = _titles(prepare, plan.job)

    def __call__(self, unit: Unit, histories: Histories) -> pa.Table:
        config = self.plan.job.recommend
        assert config is not None
        names = _user_names(self.plan.folder.prepare, histories.user)
        tables = [c.RECOMMENDATION.empty_table()]
        start = 0
        for part in batches(histories, config.batch_size):
            lists = top_k(self.ranker, part, config.k, mask_seen=config.mask_seen)
            tables.append(self._table(names.slice(start, len(part)), lists))
            start += len(part)
        table = pa.concat_tables(tables)
        (self.plan.folder.recommend / f"part-{unit.number:05d}.parquet").write_table(table)
        return pa.table({"users": [len(histories)], "rows": [len(table)]})

    def _table(self, users: pa.Array, lists: Lists) -> pa.Table:
        listed = lists.ids > 0
        row, place = np.nonzero(listed)
        items = pa.array(lists.ids[listed] - 1)
        titles = pa.nulls(len(row), pa.string())
        columns = [
            users.take(pa.array(row)),
            pa.array((place + 1).astype(np.int32)),
            _taken(self.items[c.EXTERNAL_ID], items),
            titles if self.titles is None else _taken(self.titles, items),
            pa.array(lists.scores[listed]),
        ]
        return pa.table(columns, schema=c.RECOMMENDATION)


def _counted(job: RunConfig, folder: RunFolder, manifest: Manifest) -> Any:
    """Object reference of what :class:`Mixture` needs beside the model; None where it needs
    nothing."""
    if not job.ranking.item_to_item:
        return None
    fitted = ray.remote(_fit).remote(Reader.of(job, folder), manifest)
    ray.wait([fitted])  # before actors take the CPUs that it needs; they meet its error
    return fitted


def _fit(reader: Reader, manifest: Manifest) -> ItemToItem:
    return ItemToItem.fit(training_sample(reader, manifest), manifest.items)


def _titles(prepare: Folder, job: RunConfig) -> pa.ChunkedArray | None:
    """Title of each item id from 1; None where the job has none."""
    if job.prepare.items is None or job.prepare.items.title is None:
        return None
    return (prepare / "attributes" / "item.parquet").read_table([c.TITLE])[c.TITLE]


def _user_names(prepare: Folder, users: Ints) -> pa.Array:
    """External ids of internal ids; only the row groups that hold them are read."""
    place = prepare / "vocabulary" / "user.parquet"
    if not len(users):
        return pa.array([], pa.string())
    first, last = int(users.min()), int(users.max())
    table = ds.dataset(place.path, filesystem=place.fs).to_table(
        columns=[c.EXTERNAL_ID], filter=(ds.field(c.ID) >= first) & (ds.field(c.ID) <= last)
    )
    return _taken(table[c.EXTERNAL_ID], pa.array(users - first))


def _taken(values: pa.ChunkedArray, index: pa.Array) -> pa.Array:
    return values.combine_chunks().take(index)
