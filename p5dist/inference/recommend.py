"""The recommend stage: the best items for every user, as Parquet with the ids of the raw log."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged
from p5dist.data.manifest import Manifest
from p5dist.data.reader import Portion
from p5dist.data.users import Users
from p5dist.environment.provenance import provenance
from p5dist.errors import ConfigError
from p5dist.inference import memory
from p5dist.inference.actors import score_all, workers_for_counts
from p5dist.inference.evaluate.score import Load
from p5dist.inference.fitting import fit, read_fitted
from p5dist.inference.memory import of_scoring_process
from p5dist.inference.rankers import MODEL, Rankers, Request
from p5dist.inference.scorer import load_scorer
from p5dist.inference.vectors import Trained, make_vectors
from p5dist.ranking.topk import Lists
from p5dist.storage import Folder, RunFolder

RESULT = "result.json"


def run(job: RunConfig, folder: RunFolder, *, load: Load = load_scorer) -> dict[str, Any]:
    """Write ``recommend/part-*.parquet`` (columns.RECOMMENDATION) for all users, then
    ``recommend/result.json``; Ray must be connected unless
    :func:`p5dist.inference.actors.scores_here`.

    The history of a user is the whole log of the user, including held-out interactions; with
    sessions the encoder sees the last session. An item that the user has had at any time is not
    listed, unless ``mask_seen`` is false; a list is shorter than k if the user has had nearly the
    whole catalogue.

    Args:
        load: loads the trained stage that ranks.

    Returns:
        The content of result.json.

    Raises:
        ConfigError: the job has no stage that ranks items.
        CheckpointError: the stage has no complete checkpoint.
        TrainingError: scores are not numbers.
    """
    began = time.time()
    assert job.recommend is not None
    stages = job.ranking_stages()
    if not stages:
        raise ConfigError(
            "no model to recommend with", where="recommend",
            rule="recommending needs a trained stage that ranks items",
            fix="add a pretrain section, or set recommend to null",
        )  # fmt: skip
    stage = job.recommend.ranking_from or stages[-1]
    manifest = Manifest.load(folder.prepare)
    (folder.recommend / RESULT).remove()
    folder.recommend.remove()
    folder.recommend.make()
    rows = users = most = 0
    with closing(workers_for_counts(job, manifest, "recommend")) as workers:
        if job.ranking.item_to_item:
            fit(job, folder, manifest, workers)
        if load is load_scorer:
            make_vectors(Trained(job, folder, stage), workers)
    make_writer = ListWriterFactory(job, folder, manifest, stage, load)
    for written in score_all(make_writer, job, folder, manifest, "score"):
        rows += written["rows"][0].as_py()
        users += written["users"][0].as_py()
        most = max(most, written["memory"][0].as_py())
    result = {
        "rows": rows,
        "users": users,
        "k": job.recommend.k,
        "memory": {"planned": of_scoring_process(job, manifest), "measured": most},
        "mask_seen": job.recommend.mask_seen,
        "ranking_from": stage,
        "ranking_item_to_item": job.ranking.item_to_item,
        **provenance(job, "recommend", data=manifest.fingerprint, seconds=time.time() - began),
    }
    (folder.recommend / RESULT).write_json(result)
    return result


@dataclass(frozen=True)
class ListWriterFactory:
    """The arguments of the recommend stage; makes the :class:`ListWriter` of an actor."""

    job: RunConfig
    folder: RunFolder
    manifest: Manifest
    stage: str
    load: Load

    def __call__(self) -> ListWriter:
        model = self.load(self.job, self.folder, self.stage)
        counts = None
        if self.job.ranking.item_to_item:
            counts = read_fitted(self.job, self.folder, self.manifest).item_to_item
        rankers = Rankers(self.job.ranking, model, counts, compared=False)
        return ListWriter(self.job, self.folder, rankers)


class ListWriter:
    """Writes the lists of a portion's users as one part file; the result row holds ``users`` and
    ``rows``."""

    def __init__(self, job: RunConfig, folder: RunFolder, rankers: Rankers) -> None:
        self.job, self.folder, self.rankers = job, folder, rankers
        vocabulary = folder.prepare / "vocabulary"
        self.items = (vocabulary / "item.parquet").read_table([c.EXTERNAL_ID])
        self.titles = _titles(folder.prepare, job)

    def __call__(self, portion: Portion, users: Users) -> pa.Table:
        config = self.job.recommend
        assert config is not None
        sessions = self.job.prepare.session_gap is not None
        histories = users.latest_session() if sessions else users.histories
        everything = users.histories
        names = _user_names(self.folder.prepare, histories.user)
        tables = [c.RECOMMENDATION.empty_table()]
        starts = range(0, len(histories), config.batch_size)
        requests = (self._request(histories, everything, start) for start in starts)
        for start, ranked in zip(starts, self.rankers(requests, config.k), strict=True):
            lists = ranked[MODEL][1]
            tables.append(self._table(names.slice(start, len(lists.ids)), lists))
        table = pa.concat_tables(tables)
        (self.folder.recommend / f"part-{portion.number:05d}.parquet").write_table(table)
        return pa.table({"users": [len(histories)], "rows": [len(table)], "memory": [memory.now()]})

    def _request(self, histories: Histories, everything: Histories, start: int) -> Request:
        config = self.job.recommend
        assert config is not None
        part = np.arange(start, min(start + config.batch_size, len(histories)))
        seen = None
        if config.mask_seen:
            seen = Jagged(everything.offsets, everything.item).take(part)
        return Request(histories.take(part), seen)

    def _table(self, users: pa.Array, lists: Lists) -> pa.Table:
        listed = lists.ids > 0
        row, column = np.nonzero(listed)
        items = pa.array(lists.ids[listed] - 1)
        titles = pa.nulls(len(row), pa.string())
        columns = [
            users.take(pa.array(row)),
            pa.array((column + 1).astype(np.int32)),
            _taken(self.items[c.EXTERNAL_ID], items),
            titles if self.titles is None else _taken(self.titles, items),
            pa.array(lists.scores[listed]),
        ]
        return pa.table(columns, schema=c.RECOMMENDATION)


def _titles(prepare: Folder, job: RunConfig) -> pa.ChunkedArray | None:
    """Title of each item id from 1; None if the job has no titles."""
    if job.prepare.items is None or job.prepare.items.title is None:
        return None
    return (prepare / "attributes" / "item.parquet").read_table([c.TITLE])[c.TITLE]


def _user_names(prepare: Folder, users: Ints) -> pa.Array:
    """External ids of internal ids; only the row groups with these ids are read."""
    file = prepare / "vocabulary" / "user.parquet"
    if not len(users):
        return pa.array([], pa.string())
    first, last = int(users.min()), int(users.max())
    table = ds.dataset(file.path, filesystem=file.fs).to_table(
        columns=[c.EXTERNAL_ID], filter=(ds.field(c.ID) >= first) & (ds.field(c.ID) <= last)
    )
    return _taken(table[c.EXTERNAL_ID], pa.array(users - first))


def _taken(values: pa.ChunkedArray, index: pa.Array) -> pa.Array:
    return values.combine_chunks().take(index)
