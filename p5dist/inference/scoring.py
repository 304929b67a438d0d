"""Scores all users of the prepared data with tasks of Ray Data, or in this process.

One call reads and scores a portion: the users that begin in some row groups. Reading takes a few
percent of the time of scoring, so it has no separate tasks; a portion has one result, even if it is
scored again after a failure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import pyarrow as pa

from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.data.reader import Portion, ShardReader
from p5dist.environment.console import progress
from p5dist.environment.heap import FreeMemory
from p5dist.environment.ray_errors import errors_as_raised
from p5dist.environment.workers import Here, Workers, workers_for
from p5dist.storage import RunFolder

HISTORIES = 8192
"""At least so many histories are scored by one call. The same for any number of actors, so that
products of matrices have the same shapes and the same last bits."""
_PORTION = "portion"
_WORTH_PROCESSES = 2_000_000  # interactions

Score = Callable[[Portion, Any], pa.Table]
"""Scores what is read of a portion; the result has one row."""


class Reader(Protocol):
    """Reads the users of a portion."""

    def users(self, portion: Portion) -> Any:
        """Of the log: :class:`p5dist.data.users.Users`."""
        ...


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
    """The result of ``function``: if this process scores, the value; if tasks score, an object
    reference to the value on the cluster. :func:`value_of` gives the value of both."""
    if scores_here(job):
        return function(*arguments)
    import ray

    with errors_as_raised("scoring"):
        reference = ray.remote(function).remote(*arguments)
        ray.wait([reference])  # before scoring takes the CPUs that the task needs
        return reference


def value_of(result: Any) -> Any:
    """The value of a result of :func:`run_task`."""
    import sys

    ray = sys.modules.get("ray")
    if ray is not None and isinstance(result, ray.ObjectRef):
        with errors_as_raised("scoring"):
            return ray.get(result)
    return result


def all_portions(
    job: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    *,
    columns: tuple[str, ...] | None = None,
) -> tuple[ShardReader, list[Portion]]:
    """The portions of the prepared data, and what reads them.

    Args:
        columns: of the histories; left out: those that models and tasks read.
    """
    columns = job.history_columns() if columns is None else columns
    reader = ShardReader(folder.prepare, manifest, columns)
    return reader, reader.portions(min(HISTORIES, job.feed.unit_rows))


def score_all(
    make: Callable[[], Score],
    job: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    what: str,
    *,
    columns: tuple[str, ...] | None = None,
) -> Iterator[pa.Table]:
    """:func:`score_portions` of all prepared data."""
    reader, portions = all_portions(job, folder, manifest, columns=columns)
    return score_portions(make, job, reader, portions, what)


def score_portions(
    make: Callable[[], Score], job: RunConfig, reader: Reader, portions: list[Portion], what: str
) -> Iterator[pa.Table]:
    """The result of every portion, in their order. Ray must be connected unless
    :func:`scores_here`.

    Args:
        make: makes the function that scores a portion; called once in each process.
        what: label of the progress bar.
        columns: of the histories; left out: those that models and tasks read.

    Raises:
        P5Error: as raised in a task.
    """
    with progress("histories") as bar:
        task = bar.add_task(what, total=sum(portion.rows for portion in portions), note="")
        run = _here if scores_here(job) else _on_cluster
        for portion, result in zip(portions, run(make, job, reader, portions), strict=True):
            bar.update(task, advance=portion.rows)
            yield result


def _here(
    make: Callable[[], Score], job: RunConfig, reader: Reader, portions: list[Portion]
) -> Iterator[pa.Table]:
    score, memory = make(), FreeMemory()
    for portion in portions:
        result = score(portion, reader.users(portion))
        memory.give_back()
        yield result


def _on_cluster(
    make: Callable[[], Score], job: RunConfig, reader: Reader, portions: list[Portion]
) -> Iterator[pa.Table]:
    if not portions:
        return
    import ray.data

    from p5dist.environment.resources import cpus_of_actor, gpu_for_actors

    actors = min(job.scale.actors or job.scale.most_workers, len(portions))
    cpus = cpus_of_actor(actors)
    work = uuid4().hex

    def score(numbers: pa.Table) -> pa.Table:
        (number,) = numbers[_PORTION].to_pylist()
        function = _made_once(work, make, max(int(cpus), 1))
        result = function(portions[number], reader.users(portions[number]))
        FreeMemory().give_back()
        return result

    items = [{_PORTION: number} for number in range(len(portions))]
    # Tasks, not a class: a task that was on a lost node runs on any other, while an actor waits for
    # room to start again and its work waits with it. What a class would hold, the process keeps.
    with warnings.catch_warnings():
        # Nothing replaces it yet; without it, a task that kills its process is tried for ever.
        warnings.filterwarnings("ignore", ".*ray_remote_args_fn.*")
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            score,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=cpus,
            num_gpus=1 if gpu_for_actors(job.scale, actors) else None,
            concurrency=actors,
            ray_remote_args_fn=lambda: {"max_retries": job.scale.max_failures},
        )
    dataset.context.raise_original_map_exception = True
    dataset.context.execution_options.preserve_order = True
    with errors_as_raised("scoring"):
        for bundle in dataset.iter_internal_ref_bundles():
            for block in bundle.block_refs:
                yield ray.get(block)


_made: dict[str, Score] = {}


def _made_once(work: str, make: Callable[[], Score], threads: int) -> Score:
    """The scoring function of this process, made at its first portion."""
    if work not in _made:
        import torch

        torch.set_num_threads(threads)
        _made.clear()
        _made[work] = make()
    return _made[work]
