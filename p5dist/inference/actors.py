"""All prepared histories through a pool of scoring actors (Ray), for evaluate and recommend.

One task of an actor is a *unit*: some row groups of the shards, which the actor reads and scores.
Reading is a few percent of scoring, so it has no tasks of its own; a unit has one result, whatever
is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.exceptions import RayError
from ray.util import ActorPool

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.environment.console import progress
from p5dist.environment.resources import cpus_of_actor
from p5dist.errors import P5Error, ShardError
from p5dist.ranking.targets import Clicks, Targets
from p5dist.ranking.topk import Vectors
from p5dist.storage import Folder, RunFolder

_UNITS_PER_ACTOR = 4  # so that actors end at about the same time
_WORTH_A_TASK = 2048  # histories; an actor takes longer to start than to score so few

COUNTED = 20_000_000
"""Training interactions that baselines and item-to-item are fitted on, at most about."""

Score = Callable[["Unit", Histories], pa.Table]
"""Scores a unit's histories; the result has one row."""


@dataclass(frozen=True)
class Unit:
    """What one task reads: row groups of shards."""

    number: int
    parts: tuple[tuple[str, tuple[int, ...]], ...]
    """(path below the prepare folder, row groups)"""
    rows: int


class Predictor(Vectors, Protocol):
    """A trained stage, see :class:`p5dist.inference.scorer.Scorer`."""

    def ratings(self, histories: Histories, owner: Ints, item: Ints) -> torch.Tensor:
        """[M] predicted rating of item id ``item[m]`` by the user of history ``owner[m]``."""
        ...

    def clicks(self, histories: Histories, targets: Targets) -> Clicks:
        """The examples of the click task among the targets, with their probabilities."""
        ...


Load = Callable[[RunConfig, RunFolder, str], Predictor]
"""(job, folder, training stage) → the trained stage."""


@dataclass(frozen=True)
class Reader:
    """Reads the histories of units.

    Args:
        prepare: the prepare folder.
        columns: read beside user, item and split.
        latest: only the latest history of every user.
    """

    prepare: Folder
    columns: tuple[str, ...]
    latest: bool = False

    @classmethod
    def of(cls, job: RunConfig, folder: RunFolder, *, latest: bool = False) -> Reader:
        return cls(folder.prepare, job.history_columns(), latest)

    def read(self, unit: Unit) -> Histories:
        """All interactions of the unit's histories.

        Raises:
            ShardError: a shard cannot be read.
        """
        columns = [c.USER, c.ITEM, c.SPLIT, c.LATEST, *self.columns]
        tables = [c.shard_schema().empty_table().select(columns)]
        for path, groups in unit.parts:
            place = self.prepare / path
            try:
                with pq.ParquetFile(place.path, filesystem=place.fs) as file:
                    tables.append(file.read_row_groups(list(groups), columns=columns))
            except (OSError, pa.ArrowException) as e:
                raise ShardError(
                    "a shard cannot be read", where=str(place), value=str(e),
                    fix="restore the file, or run the prepare stage again with --fresh",
                ) from e  # fmt: skip
        table = pa.concat_tables(t.select(columns) for t in tables)
        return Histories.from_table(table.filter(table[c.LATEST]) if self.latest else table)


def plan_units(manifest: Manifest, rows: int) -> list[Unit]:
    """Units of at least ``rows`` histories (the last may be smaller), in the order of the data."""
    units: list[Unit] = []
    parts: dict[str, tuple[int, ...]] = {}
    size = 0
    for shard in manifest.shards:
        for group, count in enumerate(shard.groups):
            parts[shard.path] = (*parts.get(shard.path, ()), group)
            size += count
            if size >= rows:
                units.append(Unit(len(units), tuple(parts.items()), size))
                parts, size = {}, 0
    if size:
        units.append(Unit(len(units), tuple(parts.items()), size))
    return units


def score_all(
    make: Callable[[], Score],
    job: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    what: str,
    *,
    latest: bool = False,
) -> Iterator[pa.Table]:
    """The result of every unit, in the order of the data; Ray must be connected.

    Args:
        make: called once in each actor; gives what scores a unit.
        what: shown beside the progress.
        latest: only the latest history of every user.

    Raises:
        P5Error: as raised in an actor.
    """
    actors = job.scale.actors or job.scale.most_workers
    rows = max(manifest.histories // (actors * _UNITS_PER_ACTOR), _WORTH_A_TASK)
    units = plan_units(manifest, min(rows, job.feed.unit_rows))
    actors = min(actors, len(units))
    cpus = cpus_of_actor(actors)
    threads = max(int(cpus), 1)
    make_actor = ray.remote(_Actor).options(
        num_cpus=cpus, max_restarts=job.scale.max_failures, max_task_retries=job.scale.max_failures
    )
    pool = [make_actor.remote(threads) for _ in range(actors)]
    work = ray.put((make, Reader.of(job, folder, latest=latest)))
    try:
        with progress("histories") as bar, errors_as_raised():
            task = bar.add_task(what, total=manifest.histories, note="")
            results = ActorPool(pool).map(lambda actor, unit: actor.run.remote(unit, work), units)
            for unit, result in zip(units, results, strict=True):
                bar.update(task, advance=unit.rows)
                yield result
    finally:
        # Not left to the garbage collector: an error that somebody keeps would keep the actors,
        # and the CPUs that they hold, and the next stage would wait for them.
        for actor in pool:
            ray.kill(actor)


@contextmanager
def errors_as_raised() -> Iterator[None]:
    """Errors of p5dist that Ray has wrapped come out as they were raised."""
    try:
        yield
    except RayError as e:
        inner: BaseException | None = e
        # Ray's wrapper is of both types, and its message the whole traceback.
        while inner is not None and (isinstance(inner, RayError) or not isinstance(inner, P5Error)):
            inner = getattr(inner, "cause", None) or inner.__cause__
        if inner is None:
            raise
        raise inner from None


def training_sample(reader: Reader, manifest: Manifest) -> list[Histories]:
    """Training interactions to count: all, or whole shards' users (a random sample) with about
    COUNTED of them."""
    share = max(1.0, manifest.rows_by_split["train"] / COUNTED)
    rows = max(1, int(manifest.histories / share))
    parts: list[Histories] = []
    read = 0
    for unit in plan_units(manifest, 65_536):
        if read >= rows:
            break
        histories = reader.read(unit)
        parts.append(histories.where(histories.split == c.TRAIN))
        read += len(histories)
    return parts


class _Actor:
    """Reads and scores units. What scores is made at the first unit: an error in a constructor
    would reach the user as a dead actor, without its type."""

    def __init__(self, threads: int) -> None:
        self.score: Score | None = None
        torch.set_num_threads(threads)

    def run(self, unit: Unit, work: tuple[Callable[[], Score], Reader]) -> pa.Table:
        """The result of one unit."""
        make, reader = work
        if self.score is None:
            self.score = make()
        return self.score(unit, reader.read(unit))


def batches(histories: Histories, size: int) -> Iterator[Histories]:
    """The histories in order, at most ``size`` at once."""
    for start in range(0, len(histories), size):
        yield histories.take(np.arange(start, min(start + size, len(histories))))
