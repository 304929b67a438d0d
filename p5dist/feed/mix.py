"""The data sets of a training stage: the data set of this job and, in pre-training, the data sets
of ``feed.mix``. A single data set is a mix of one.

Every data set has its own order with the same lanes, its own rows per lane and step, and its own
epochs. Step s of a stage takes step s of each data set, so that the position is one number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config import RunConfig, parse_job
from p5dist.config.base import Column
from p5dist.config.train import Training
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Bools, Ints, Jagged, offsets_of
from p5dist.data.labelled import LabelledUsers, ShadowUsers
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import Stream, hashed
from p5dist.data.reader import ShardReader
from p5dist.errors import ConfigError, DataError
from p5dist.feed.order import LaneOrder
from p5dist.feed.units import UnitReader
from p5dist.storage import Folder, RunFolder


@dataclass(frozen=True)
class DataSet:
    """One prepared data set of a stage."""

    name: str
    """Under feed.mix; empty: this job's own."""
    run: RunFolder
    manifest: Manifest
    order: LaneOrder

    def item_counts(self) -> Ints:
        """[items] training interactions of item id i + 1."""
        table = (self.run.prepare / "vocabulary/item.parquet").read_table([c.COUNT])
        counts: Ints = table[c.COUNT].to_numpy()
        return counts

    def catalogue(self) -> Catalogue:
        """The items of the data set."""
        return Catalogue.read(self.run.prepare, self.manifest)


@dataclass(frozen=True)
class Mix:
    """All data sets of a stage; the first is this job's own."""

    sets: tuple[DataSet, ...]

    @property
    def own(self) -> DataSet:
        """This job's data."""
        return self.sets[0]

    @property
    def fingerprint(self) -> str:
        """Of all data and of its shares."""
        if len(self.sets) == 1:
            return self.own.manifest.fingerprint
        parts = [f"{one.manifest.fingerprint} {one.order.rows_per_lane}" for one in self.sets]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def shares(self) -> dict[str, float]:
        """Part of every batch that comes from each data set, by name."""
        rows = [one.order.rows_per_lane for one in self.sets]
        return {one.name: n / sum(rows) for one, n in zip(self.sets, rows, strict=True)}

    def item_counts(self) -> Ints:
        """[items] training interactions of item id i + 1 while this job's own data is trained on
        once, rounded up."""
        counts: Ints = self.own.item_counts().copy()
        for other in self.sets[1:]:
            more = other.item_counts()
            counts[: len(more)] += np.ceil(more * self.epochs(other)).astype(np.int64)
        return counts

    def epochs(self, one: DataSet) -> float:
        """Epochs of a data set during one epoch of this job's own data."""
        rows = one.order.rows_per_lane / one.manifest.histories
        return rows / (self.own.order.rows_per_lane / self.own.manifest.histories)

    def catalogue(self) -> Catalogue:
        """The items of all data sets."""
        found = self.own.catalogue()
        for other in self.sets[1:]:
            found = found.joined(other.catalogue())
        return found

    def readers(self, job: RunConfig, training: Training) -> tuple[UnitReader, ...]:
        """The reader of each data set for a training stage."""
        whole_users = any(task.reads_whole_users for task in training.tasks().values())
        return tuple(
            UnitReader(
                shards=ShardReader(
                    one.run.prepare, one.manifest, job.history_columns(), one.order.first_row
                ),
                order=one.order,
                max_length=job.feed.max_length,
                random_window=job.feed.window == "random",
                shuffled=training.shuffled,
                whole_users=whole_users,
                strangers=one is not self.own,
                keep=one.manifest.rows_kept <= job.feed.in_memory,
            )
            for one in self.sets
        )

    def check(self, job: RunConfig) -> None:
        """Ids of items and events mean the same in all data sets, and all shards are there.

        Raises:
            ConfigError: they do not; with the first id that differs.
            ShardError: a shard of another data set is missing or truncated.
        """
        for other in self.sets[1:]:
            other.manifest.check_shards(other.run.prepare)
            _check_items(job, self.own, other)
            own, events = list(self.own.manifest.events), list(other.manifest.events)
            if c.EVENT in job.history_columns() and events != own[: len(events)]:
                raise ConfigError(
                    "the data sets number their events differently",
                    where=f"feed.mix.{other.name}.data", value=events,
                    rule=f"the first of this job's own: {own}",
                    fix="name the same events in the same order in prepare.events of both jobs",
                )  # fmt: skip


def open_mix(job: RunConfig, stage: str, folder: RunFolder, manifest: Manifest) -> Mix:
    """The data sets of a training stage.

    Raises:
        ShardError: a data set of the mix is not prepared, or damaged.
    """
    training, seed = job.trainings()[stage], job.training_seed
    names = [""] if stage != "pretrain" else ["", *sorted(job.feed.mix)]
    weights = job.feed.weights[: len(names)]
    rows = rows_by_weight(training.batch_size // job.feed.lanes, weights)
    sets: list[DataSet] = []
    first_row = 0
    for number, name in enumerate(names):
        run = RunFolder.at(Folder.open(job.feed.mix[name].data)) if name else folder
        its = Manifest.read(run.prepare) if name else manifest
        order = LaneOrder(
            its,
            lanes=job.feed.lanes,
            batch_size=rows[number] * job.feed.lanes,
            seed=int(hashed(seed, Stream.DATA_SETS, number)[0] >> 1) if name else seed,
            first_row=first_row,
            chosen=_chosen(job, training, run, its),
        )
        sets.append(DataSet(name, run, its, order))
        first_row += its.histories
    return Mix(tuple(sets))


def _chosen(
    job: RunConfig, training: Training, run: RunFolder, manifest: Manifest
) -> Jagged | None:
    """For every row group the offsets of the histories that have something to learn: those of users
    with labels of the stage's tasks, those with training interactions since the time from which on
    the data trains, those of a shadow run. None: all histories."""
    share, since = training.learned.labelled_users, manifest.since
    number = job.feed.shadow
    if share == 1 and since is None and number is None:
        return None
    of_shadow = None if number is None else ShadowUsers(number, job.seed)

    def trains(user: Ints) -> Bools:
        labelled = LabelledUsers(share, job.seed)(user)
        return labelled if of_shadow is None else labelled & of_shadow(user)

    columns: list[Column] = [] if since is None else ["timestamp"]
    reader = ShardReader(run.prepare, manifest, tuple(columns))
    rows = []
    for group in range(len(reader.groups)):
        if since is None:
            chosen = trains(reader.group_column(group, c.USER))
        else:
            histories = reader.group(group)
            new = (histories.split == c.TRAIN) & (histories.timestamp >= since)
            chosen = trains(histories.user) & (histories.where(new).lengths > 0)
        rows.append(np.flatnonzero(chosen))
    lengths = np.array([len(some) for some in rows], dtype=np.int64)
    found = Jagged(offsets_of(lengths), np.concatenate([np.zeros(0, np.int64), *rows]))
    if not len(found.values) and share == 1:
        raise DataError(
            "no history has something to learn", where=f"{run.prepare}",
            rule="training predicts interactions that the earlier run did not train on, and there "
            "is none before prepare.split.test",
            fix="advance with files that have later interactions",
        )  # fmt: skip
    if not len(found.values):
        raise ConfigError(
            "no user has labels", where="labels", value=share,
            rule=f"a share of {manifest.users:,} users, chosen by a hash of seed and user",
            fix="raise it",
        )  # fmt: skip
    return found


def rows_by_weight(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` split by weight (largest remainder), at least 1 for each."""
    rows = largest_remainder(total, weights)
    assert total >= len(rows), "the configuration checks it"
    while rows.min() < 1:
        rows[rows.argmin()] += 1
        rows[rows.argmax()] -= 1
    return [int(n) for n in rows]


def largest_remainder(total: int, weights: Sequence[float]) -> Ints:
    """Whole numbers in proportion to ``weights`` that add up to ``total``: rounded down, then
    raised by one where rounding removed most."""
    share = np.asarray(weights, dtype=np.float64)
    wanted = total * share / share.sum()
    whole: Ints = np.floor(wanted).astype(np.int64)
    whole[np.argsort(whole - wanted, kind="stable")[: total - whole.sum()]] += 1
    return whole


def _check_items(job: RunConfig, own: DataSet, other: DataSet) -> None:
    hashed = job.prepare.vocabulary.hashed
    if hashed is not None:
        its_job = parse_job(other.run.job.read_bytes(), where=str(other.run.job))
        if its_job.prepare.vocabulary.hashed == hashed:
            return
    ours, theirs = (_external(one) for one in (own, other))
    same = pc.equal(ours[: len(theirs)], theirs[: len(ours)])
    first = pc.index(pc.fill_null(same, False), False).as_py()
    if first < 0 and len(theirs) <= len(ours):
        return
    at = first if first >= 0 else len(ours)
    found = ours[at].as_py() if at < len(ours) else None
    raise ConfigError(
        "the data sets of a mix do not have the same items",
        where=f"feed.mix.{other.name}.data: {other.run.root}",
        value=f"item id {at + 1} is {theirs[at].as_py()!r} there and {found!r} here",
        rule="the vocabulary of this job begins with the vocabulary of every data set in feed.mix",
        fix="prepare this job last, with prepare.vocabulary.extend: the run that was prepared "
        "before it, which extends the one before that",
    )


def _external(one: DataSet) -> pa.ChunkedArray:
    table = (one.run.prepare / "vocabulary/item.parquet").read_table([c.EXTERNAL_ID])
    return table[c.EXTERNAL_ID]
