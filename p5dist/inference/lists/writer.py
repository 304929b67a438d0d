"""What a scoring process does with a portion: rank, and write the lists as one part."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints, Jagged, contains
from p5dist.data.manifest import Manifest
from p5dist.data.reader import Portion
from p5dist.data.users import Users
from p5dist.inference import memory
from p5dist.inference.attributed import AttributeVectors
from p5dist.inference.evaluate.score import Load
from p5dist.inference.explain import Explainer, reason_columns
from p5dist.inference.fidelity import fidelity
from p5dist.inference.fitting import mixes, mixture_of, read_fitted
from p5dist.inference.items import ItemIds
from p5dist.inference.lists.candidates import fill_with_popular
from p5dist.inference.lists.new_people import Counts, Shard, histories_of
from p5dist.inference.lists.parts import Parts
from p5dist.inference.rankers import MODEL, ListRules, Rankers, Request
from p5dist.inference.scorer import load_scorer
from p5dist.inference.vectors import Trained
from p5dist.ranking.topk import Lists
from p5dist.storage import Folder, RunFolder
from p5dist.storage.arrays import LocalCopies

_CHECKED = 32
"""Histories of a portion whose explanations are checked."""
OFFSET, USERS = "offset.npy", "users.npy"
"""Files in scratch/: what is added to the score of each item; the users of the log to write lists
for."""


@dataclass(frozen=True)
class ListWriterFactory:
    """The arguments of the recommend stage; makes the :class:`ListWriter` of a process."""

    job: RunConfig
    folder: RunFolder
    manifest: Manifest
    stage: str
    load: Load
    popular: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """[k or fewer] item ids for people without a known item."""

    def __call__(self) -> ListWriter:
        model = self.load(self.job, self.folder, self.stage)
        mixture = None
        if mixes(self.job):
            mixture = mixture_of(self.job, read_fitted(self.job, self.folder, self.manifest))
        rankers = Rankers(self.job.ranking, model, mixture)
        explainer = None
        if self.job.recommend is not None and self.job.recommend.explain:
            attributes = None
            if self.load is load_scorer:
                attributes = AttributeVectors.of(Trained(self.job, self.folder, self.stage))
            explainer = Explainer.of(self.job.ranking, model, mixture, attributes)
        return ListWriter(self, rankers, explainer)


class ListWriter:
    """Writes the lists of a portion; the result row holds ``users`` and ``rows``."""

    def __init__(
        self, of: ListWriterFactory, rankers: Rankers, explainer: Explainer | None
    ) -> None:
        self.job, self.folder, self.manifest = of.job, of.folder, of.manifest
        self.rankers, self.explainer, self.popular = rankers, explainer, of.popular
        assert self.job.recommend is not None
        self.config = self.job.recommend
        self.parts = Parts(of.folder.recommend)
        self.items = ItemIds.read_ids(of.job, of.folder.prepare, of.manifest)
        self.titles = _titles(of.folder.prepare, of.job)
        self.sessions = self.job.prepare.session_gap is not None
        self._copies = LocalCopies()
        offset = self._array(OFFSET)
        self.rules = ListRules(
            None if offset is None else torch.from_numpy(offset),
            self.config.diversity,
            self.config.depth,
        )
        self.users = self._array(USERS)

    def __call__(self, portion: Portion, read: Users | Shard) -> pa.Table:
        if isinstance(read, Shard):
            events = tuple(self.manifest.events)
            users, counts = histories_of(read, self.items, self.job.prepare, events)
            return self._write(portion.number, users, read.people, counts)
        if self.users is not None:
            there = np.flatnonzero(contains(self.users, read.histories.user))
            read = read.take(there)
        names = _user_names(self.folder.prepare, read.histories.user)
        if names.null_count:  # of users who were forgotten
            there = np.flatnonzero(names.is_valid())
            read, names = read.take(there), names.take(pa.array(there))
        return self._write(portion.number, read, names, Counts(len(read)))

    def _write(self, number: int, users: Users, names: pa.Array, counts: Counts) -> pa.Table:
        """
        Args:
            names: [U] external ids.
        """
        config = self.config
        everything = users.histories
        histories = users.latest_session() if self.sessions else everything
        tables = [self._schema.empty_table()]
        checked: dict[str, float] = {}
        starts = range(0, len(histories), config.batch_size)
        requests = (self._request(histories, everything, start) for start in starts)
        ranked = self.rankers(requests, config.k, self.rules)
        for start, by_name in zip(starts, ranked, strict=True):
            lists = by_name[MODEL][1]
            explained = histories.between(start, start + len(lists.ids))
            if self.explainer is not None and not checked:
                checked = self._checked(explained, everything, lists, number)
            fill_with_popular(lists, explained.lengths, self.popular)
            tables.append(self._table(names.slice(start, len(lists.ids)), explained, lists))
        table = pa.concat_tables(tables)
        self.parts.write(number, table, counts.as_json() | checked)
        return pa.table({"users": [len(histories)], "rows": [len(table)], "memory": [memory.now()]})

    def _request(self, histories: Histories, everything: Histories, start: int) -> Request:
        part = np.arange(start, min(start + self.config.batch_size, len(histories)))
        seen = None
        if self.config.mask_seen:
            seen = Jagged(everything.offsets, everything.item).take(part)
        return Request(histories.take(part), seen)

    @property
    def _schema(self) -> pa.Schema:
        return c.RECOMMENDATION if self.explainer is None else c.EXPLAINED

    def _checked(
        self, histories: Histories, everything: Histories, lists: Lists, number: int
    ) -> dict[str, float]:
        """The fidelity of the explanations of the first histories of a portion, as sums."""
        assert self.explainer is not None and self.config.explain is not None
        histories = histories.between(0, min(_CHECKED, len(histories)))
        ids = lists.ids[:_CHECKED]

        def still_listed(kept: Histories, of: Ints, items: Ints) -> Floats:
            seen = None
            if self.config.mask_seen:
                seen = Jagged(everything.offsets, everything.item).take(of)
            request = Request(kept, seen, np.arange(len(kept)), items)
            (ranked,) = self.rankers([request], self.config.k, ListRules(self.rules.offset))
            return (ranked[MODEL][0] <= self.config.k).astype(np.float64)

        found = fidelity(
            self.explainer, histories, ids, still_listed, most=self.config.explain,
            seed=self.job.seed + number,
        )  # fmt: skip
        return found.sums()

    def _table(self, users: pa.Array, histories: Histories, lists: Lists) -> pa.Table:
        listed = lists.ids > 0
        row, column = np.nonzero(listed)
        items = pa.array(lists.ids[listed] - 1)
        titles = pa.nulls(len(row), pa.string())
        columns = [
            users.take(pa.array(row)),
            pa.array((column + 1).astype(np.int32)),
            self.items.external.take(items),
            titles if self.titles is None else _taken(self.titles, items),
            pa.array(lists.scores[listed], from_pandas=True),  # NaN: null
        ]
        if self.explainer is not None:
            assert self.config.explain is not None
            reasons = self.explainer(histories, lists.ids)
            columns += reason_columns(
                reasons, histories, listed, self.items.external, self.config.explain
            )
        return pa.table(columns, schema=self._schema)

    def _array(self, name: str) -> np.ndarray | None:
        """An array in scratch/, mapped; None if it is not there."""
        file = self.parts.scratch / name
        if not file.exists():
            return None
        found: np.ndarray = np.load(self._copies.path(file), mmap_mode="c", allow_pickle=False)
        return found


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
