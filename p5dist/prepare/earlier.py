"""The run that a log continues (``prepare.continues``): interactions that its users had before.

A run has the whole histories of its users only: of those with a new interaction, and of those with
interactions that the run before it had held out. The runs form a chain, newest first, and a user's
history is in the newest run that has the user. Shard s of every run has the same users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from p5dist.config import RunConfig, parse_job
from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints
from p5dist.data.manifest import MANIFEST, Manifest
from p5dist.errors import DataError
from p5dist.prepare.arrays import Ids, one_array
from p5dist.prepare.cleaning import RAW
from p5dist.prepare.interactions import TRAINED
from p5dist.prepare.pseudonyms import check_of
from p5dist.prepare.sources import Inputs
from p5dist.storage import Folder, RunFolder

_KEY = "prepare.continues"


@dataclass(frozen=True)
class Earlier:
    """The chain of earlier runs.

    Args:
        prepares: prepare folders, newest first.
        manifests: their manifests.
    """

    prepares: tuple[Folder, ...]
    manifests: tuple[Manifest, ...]

    @classmethod
    def find(cls, job: RunConfig) -> Earlier | None:
        """The runs that a job continues; None: it begins anew.

        Raises:
            DataError: no prepared data is there, or it cannot be continued.
        """
        place, found = job.prepare.continues, list[tuple[Folder, Manifest]]()
        while place is not None:
            run = RunFolder.at(Folder.open(place))
            if not (run.prepare / MANIFEST).exists():
                raise DataError(
                    "no prepared data there", where=_KEY, value=place,
                    rule="the folder of a run whose prepare stage is complete",
                    fix="name <storage>/<run name> of the earlier run",
                )  # fmt: skip
            manifest = Manifest.load(run.prepare)
            its_job = parse_job(run.job.read_bytes(), where=str(run.job))
            _check(job, its_job, manifest, place)
            found.append((run.prepare, manifest))
            place = its_job.prepare.continues
        if not found:
            return None
        prepares, manifests = zip(*found, strict=True)
        return cls(prepares, manifests)

    @property
    def newest(self) -> Manifest:
        """Of the run that is continued."""
        return self.manifests[0]

    @property
    def id_types(self) -> dict[str, pa.DataType]:
        """Types of user and item ids, which decide about the shard of a user."""
        return {
            side: pa.int64() if name == "int64" else pa.string()
            for side, name in self.newest.id_types.items()
        }

    @property
    def since(self) -> int:
        """Time from which on interactions have not trained (microseconds since 1970)."""
        assert self.newest.held_out_from is not None, "find() checks it"
        return self.newest.held_out_from

    def item_counts(self) -> Ints:
        """[items] interactions of each item that the earlier runs trained on."""
        table = (self.prepares[0] / "vocabulary/item.parquet").read_table([c.COUNT])
        counts: Ints = table[c.COUNT].to_numpy()
        return counts

    def rows(self, shard: int, users: Ids, schema: pa.Schema) -> Iterator[pa.Table]:
        """The interactions of users of a shard, with the column ``trained``: of ``users`` (external
        ids), and of the users with interactions that the newest run held out.

        Args:
            schema: of cleaned rows, see :class:`.cleaning.Cleaned`.
        """
        wanted = users.cast(pa.string())
        for number in range(len(self.prepares)):
            table, names = self._shard(number, shard, schema)
            if table is None:
                continue
            chosen = np.asarray(pc.is_in(names, value_set=wanted))
            owner = table[c.USER].to_numpy()
            if number == 0:
                chosen |= _held_out(table, owner, len(names))
            kept = pa.array(chosen[owner])
            there = names.filter(pa.array(chosen))
            wanted = wanted.filter(pc.invert(pc.is_in(wanted, value_set=there)))
            yield self._flat(table.filter(kept), names, schema)
            if not len(wanted):
                return

    def _shard(
        self, number: int, shard: int, schema: pa.Schema
    ) -> tuple[pa.Table | None, pa.StringArray]:
        """The histories of a shard, with the index of the user as USER, and its users' external
        ids; None where the run has none."""
        prepare = self.prepares[number]
        path = f"shards/part-{shard:05d}.parquet"
        none = pa.array([], pa.string())
        if path not in {file.path for file in self.manifests[number].shards}:
            return None, none
        lists = [name for name in schema.names if name not in (c.USER, c.ITEM, RAW)]
        table = (prepare / path).read_table([c.USER, c.ITEM, c.SPLIT, *lists])
        ids = table[c.USER].to_numpy()
        first, last = int(ids.min()), int(ids.max())
        names = _external(prepare / "vocabulary/user.parquet", first - 1, last)
        return table.set_column(0, c.USER, pa.array(ids - first)), names

    def _flat(self, table: pa.Table, users: pa.StringArray, schema: pa.Schema) -> pa.Table:
        lengths = np.asarray(pc.list_value_length(table[c.ITEM]))
        owner = np.repeat(table[c.USER].to_numpy(), lengths)

        def values(name: str) -> pa.Array:
            return one_array(table[name].combine_chunks()).flatten()

        found: dict[str, Any] = {}
        for field in schema:
            name = field.name
            if name == c.USER:
                found[name] = users.take(pa.array(owner)).cast(field.type)
            elif name == c.ITEM:
                found[name] = self._names[name].take(pc.subtract(values(name), 1)).cast(field.type)
            elif name in self._names:
                found[name] = self._names[name].take(values(name).cast(pa.int64()))
            elif name == RAW:  # the rows as they were read are with the earlier run
                found[name] = pa.nulls(len(owner), field.type)
            else:
                found[name] = values(name)
        trained = np.asarray(values(c.SPLIT)) == c.TRAIN
        return pa.table(found | {TRAINED: trained})

    @cached_property
    def _names(self) -> dict[str, pa.StringArray]:
        """External ids of items, and by event and context the text of each code from 0 on."""
        folder, found = self.prepares[0] / "vocabulary", dict[str, pa.StringArray]()
        events = [c.EVENT] if self.newest.events else []
        for name in (c.ITEM, *events, *self.newest.context):
            table = (folder / f"{name}.parquet").read_table([c.EXTERNAL_ID])
            none = pa.array([] if name == c.ITEM else [""], pa.string())
            found[name] = pa.concat_arrays([none, one_array(table[c.EXTERNAL_ID])])
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"prepares": self.prepares, "manifests": self.manifests}


def id_types_of(inputs: Inputs, earlier: Earlier | None) -> dict[str, pa.DataType]:
    """Types of user and item ids: those of the run that the log continues.

    Raises:
        DataError: it has numbers, and the log has text.
    """
    now = inputs.id_types
    if earlier is None:
        return now
    for side, before in earlier.id_types.items():
        if pa.types.is_integer(before) and not pa.types.is_integer(now[side]):
            raise DataError(
                f"the ids of {side}s have another type than in the earlier run",
                where=f"prepare.source.columns.{side}", value=str(now[side]), rule=str(before),
                fix="write the new files with columns of the same types",
            )  # fmt: skip
    return earlier.id_types


def _held_out(table: pa.Table, owner: Ints, users: int) -> Bools:
    """[users] whether a user has an interaction that does not train."""
    split = one_array(table[c.SPLIT].combine_chunks())
    lengths = np.asarray(pc.list_value_length(split))
    held = np.repeat(owner, lengths)[np.asarray(split.flatten()) != c.TRAIN]
    found: Bools = np.bincount(held, minlength=users) > 0
    return found


def _external(file: Folder, begin: int, end: int) -> pa.StringArray:
    """The external ids of rows ``begin`` … ``end - 1`` of a vocabulary, without reading the row
    groups of others."""
    with pq.ParquetFile(file.path, filesystem=file.fs) as opened:
        meta = opened.metadata
        sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        edges = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.flatnonzero((edges[:-1] < end) & (edges[1:] > begin))
        table = opened.read_row_groups(groups.tolist(), columns=[c.EXTERNAL_ID])
    skip = begin - int(edges[groups[0]])
    return one_array(table[c.EXTERNAL_ID].slice(skip, end - begin))


def _check(job: RunConfig, earlier: RunConfig, manifest: Manifest, place: str) -> None:
    """Raise DataError unless ``job`` can continue the ``earlier`` one."""
    columns = "prepare.source.columns"
    for wrong, rule, fix in (
        (
            job.prepare.source.columns != earlier.prepare.source.columns,
            f"the same {columns} in both jobs", f"correct {columns}",
        ),
        (
            check_of(job.prepare.privacy.pseudonyms) != manifest.key_check,
            "the key of the pseudonyms of the earlier run", "set the environment variable to it",
        ),
        (
            not manifest.shard_number, "data of this version of p5dist",
            "prepare the earlier run again: --fresh",
        ),
        (
            manifest.held_out_from is None, "prepare.split.kind time in the earlier run",
            "prepare the earlier run with a split by time, which holds out its last interactions",
        ),
        (
            earlier.prepare.vocabulary.of != "all", "prepare.vocabulary.of all in the earlier run",
            "prepare the earlier run with it: what is held out of it now trains",
        ),
    ):  # fmt: skip
        if wrong:
            raise DataError(
                "a run that cannot be continued", where=_KEY, value=place, rule=rule, fix=fix
            )  # fmt: skip
