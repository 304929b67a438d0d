"""Scores all users of the prepared data with actors (Ray), or in this process.

One call of an actor reads and scores a portion: the users that begin in some row groups. Reading
takes a few percent of the time of scoring, so it has no separate tasks; a portion has one result,
even if it is scored again after a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pyarrow as pa

from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.data.reader import Portion, ShardReader
from p5dist.data.users import Users
from p5dist.environment.console import progress
from p5dist.environment.ray_errors import errors_as_raised
from p5dist.environment.workers import Here, Workers, workers_for
from p5dist.storage import RunFolder

_PORTIONS_PER_ACTOR = 4  # so that actors end at about the same time
_WORTH_PROCESSES = 2_000_000  # interactions
_WORTH_A_CALL = 2048  # histories; scoring fewer takes less time than starting an actor

Score = Callable[[Portion, Users], pa.Table]
"""Scores the users of a portion; the result has one row."""
Result = TypeVar("Result")


def scores_here(job: RunConfig) -> bool:
    """Whether evaluate and recommend run in this process: without a cluster address and with one
    actor."""
    return job.scale.address is None and (job.scale.actors or job.scale.most_workers) == 1


def workers_for_counts(job: RunConfig, manifest: Manifest, where: str) -> Workers:
    """The workers that count and compute vectors before all users are scored: this process, where
    the work is not worth the start of others. Close them."""
    if manifest.rows_kept < _WORTH_PROCESSES and manifest.items < _WORTH_PROCESSES // 10:
        return Here()
    return workers_for(job.scale, where)


def run_task(job: RunConfig, function: Callable[..., Result], *arguments: Any) -> Any:
    """The result of ``function``: if this process scores, the value; if actors score, an object
    reference to the value on the cluster. :func:`value_of` gives the value of both."""
    if scores_here(job):
        return function(*arguments)
    import ray

    with errors_as_raised("scoring"):
        reference = ray.remote(function).remote(*arguments)
        ray.wait([reference])  # before actors take the CPUs that the task needs
        return reference


def value_of(result: Any) -> Any:
    """The value of a result of :func:`run_task`."""
    import sys

    ray = sys.modules.get("ray")
    if ray is not None and isinstance(result, ray.ObjectRef):
        with errors_as_raised("scoring"):
            return ray.get(result)
    return result


def score_all(
    make: Callable[[], Score],
    job: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    what: str,
    *,
    columns: tuple[str, ...] | None = None,
) -> Iterator[pa.Table]:
    """The result of every portion, in the order of the data. Ray must be connected unless
    :func:`scores_here`.

    Args:
        make: makes the function that scores a portion; called once in each actor.
        what: label of the progress bar.
        columns: of the histories; left out: those that models and tasks read.

    Raises:
        P5Error: as raised in an actor.
    """
    actors = job.scale.actors or job.scale.most_workers
    rows = max(manifest.histories // (actors * _PORTIONS_PER_ACTOR), _WORTH_A_CALL)
    columns = job.history_columns() if columns is None else columns
    reader = ShardReader(folder.prepare, manifest, columns)
    portions = reader.portions(min(rows, job.feed.unit_rows))
    with progress("histories") as bar:
        task = bar.add_task(what, total=manifest.histories, note="")
        run = _here if scores_here(job) else _on_actors
        for portion, result in zip(portions, run(make, job, reader, portions), strict=True):
            bar.update(task, advance=portion.rows)
            yield result


def _here(
    make: Callable[[], Score], job: RunConfig, reader: ShardReader, portions: list[Portion]
) -> Iterator[pa.Table]:
    score = make()
    for portion in portions:
        yield score(portion, reader.users(portion))


def _on_actors(
    make: Callable[[], Score], job: RunConfig, reader: ShardReader, portions: list[Portion]
) -> Iterator[pa.Table]:
    import ray
    from ray.util import ActorPool

    from p5dist.environment.resources import cpus_of_actor

    actors = min(job.scale.actors or job.scale.most_workers, len(portions))
    cpus = cpus_of_actor(actors)
    make_actor = ray.remote(_Actor).options(
        num_cpus=cpus, max_restarts=job.scale.max_failures, max_task_retries=job.scale.max_failures
    )
    pool = [make_actor.remote(max(int(cpus), 1)) for _ in range(actors)]
    work = ray.put((make, reader))
    try:
        with errors_as_raised("scoring"):
            yield from ActorPool(pool).map(
                lambda actor, portion: actor.run.remote(portion, work), portions
            )
    finally:
        # Killed instead of garbage-collected: the traceback of an error would keep the actors and
        # their CPUs alive, and the next stage would wait for the CPUs.
        for actor in pool:
            ray.kill(actor)


class _Actor:
    """Reads and scores portions. The scoring function is made at the first portion: an error in the
    constructor of an actor would reach the user as a dead actor, without the error's type."""

    def __init__(self, threads: int) -> None:
        import torch

        self.score: Score | None = None
        torch.set_num_threads(threads)

    def run(self, portion: Portion, work: tuple[Callable[[], Score], ShardReader]) -> pa.Table:
        """The result of one portion."""
        make, reader = work
        if self.score is None:
            self.score = make()
        return self.score(portion, reader.users(portion))
