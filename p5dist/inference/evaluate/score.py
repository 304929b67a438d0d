"""Scoring the users of a portion: ranks of the targets, examples of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist.config import RunConfig
from p5dist.config.output import Evaluate
from p5dist.data import columns as c
from p5dist.data.jagged import Array, Ints
from p5dist.data.manifest import Manifest
from p5dist.data.reader import Portion
from p5dist.data.users import Users
from p5dist.inference.actors import value_of
from p5dist.inference.fitting import Fitted, task_evaluations
from p5dist.inference.rankers import all_rankers
from p5dist.ranking.targets import Rule, TargetBatch, Targets
from p5dist.ranking.topk import Lists, Ranker, rank_and_list
from p5dist.storage import RunFolder
from p5dist.tasks.evaluation import Evaluation, Predictor

Load = Callable[[RunConfig, RunFolder, str], Any]
"""(job, folder, training stage) → the trained stage, see :class:`.scorer.Scorer`."""

UNLISTED = 1 << 30
"""Best rank of an item that is in no list."""
REPEATED, SKIPPED = "repeated", "skipped"
RANK, LISTED, BEST_RANK, TASK, LEFT_OUT = "rank", "listed", "best_rank", "task", "left_out"
"""Prefixes of column names: ``rank:<ranker>``, ``task:<path>:<array>``, ``left_out:<reason>``."""


def rule_of(job: RunConfig, config: Evaluate, manifest: Manifest) -> Rule:
    """The rule that chooses the targets of the evaluation."""
    users = manifest.users_by_split[config.split]
    share = 1.0 if config.users is None or not users else min(config.users / users, 1.0)
    return Rule(
        split=c.SPLIT_CODES[config.split],
        sessions=job.prepare.session_gap is not None,
        targets=config.targets,
        share=share,
        seed=job.seed,
    )


@dataclass(frozen=True)
class TargetScorerFactory:
    """The arguments of the evaluate stage; makes the :class:`TargetScorer` of an actor."""

    job: RunConfig
    folder: RunFolder
    manifest: Manifest
    ranking: str | None
    """Training stage whose model ranks."""
    fitted: Any
    """The result of :func:`.actors.run_task` for the fitted baselines."""
    load: Load

    def __call__(self) -> TargetScorer:
        fitted: Fitted = value_of(self.fitted)
        loaded: dict[str, Any] = {}

        def stage(name: str) -> Any:
            if name not in loaded:
                loaded[name] = self.load(self.job, self.folder, name)
            return loaded[name]

        rankers = {} if self.ranking is None else all_rankers(self.job, stage(self.ranking), fitted)
        paths = self.job.predicting_tasks()
        tasks = {
            path: (evaluation, stage(paths[path][0]).task(paths[path][1]))
            for path, evaluation in task_evaluations(self.job, self.folder, self.manifest).items()
        }
        return TargetScorer(self.job, self.manifest, rankers, tasks, fitted.tasks)


class TargetScorer:
    """Scores portions with the model and the baselines.

    The result is one row: lists ``user``, ``item``, ``repeated`` and ``rank:<ranker>`` with one
    entry per target; ``task:<path>:<array>`` with one entry per example of the task;
    ``listed:<ranker>`` with the distinct items in the lists and ``best_rank:<ranker>`` with the
    best rank of each item; the numbers ``left_out:<reason>`` and ``skipped`` (users without
    history).
    """

    def __init__(
        self,
        job: RunConfig,
        manifest: Manifest,
        rankers: Mapping[str, Ranker],
        tasks: Mapping[str, tuple[Evaluation, Predictor]],
        baselines: Mapping[str, Any],
    ) -> None:
        assert job.evaluate is not None
        self.config = job.evaluate
        self.rule = rule_of(job, job.evaluate, manifest)
        self.rankers, self.tasks, self.baselines = rankers, tasks, baselines

    def __call__(self, portion: Portion, users: Users) -> pa.Table:
        targets = Targets.find(users, self.rule)
        found: dict[str, list[Array]] = {}
        best_ranks = {
            name: unlisted(ranker.catalogue.largest) for name, ranker in self.rankers.items()
        }
        batches = targets.batches(self.config.batch_size) if len(targets) else [targets.nothing()]
        for batch in batches:
            for name, values in self._score(batch, best_ranks).items():
                found.setdefault(name, []).append(values)
        result = {name: _list(np.concatenate(parts)) for name, parts in found.items()}
        for name, best in best_ranks.items():
            listed = np.flatnonzero(best < UNLISTED)
            result[f"{LISTED}:{name}"] = _list(listed)
            result[f"{BEST_RANK}:{name}"] = _list(best[listed])
        counts = {f"{LEFT_OUT}:{reason}": [n] for reason, n in targets.left_out.items()}
        return pa.table({SKIPPED: [targets.users_without_history], **counts, **result})

    def _score(self, batch: TargetBatch, best_ranks: dict[str, Ints]) -> dict[str, Array]:
        found: dict[str, Array] = {
            c.USER: batch.user, c.ITEM: batch.item, REPEATED: batch.repeated
        }  # fmt: skip
        seen = batch.seen if self.config.mask_seen else None
        for name, ranker in self.rankers.items():
            ranks, lists = rank_and_list(
                ranker, batch.histories, batch.owner, batch.item, max(self.config.k), seen=seen
            )
            found[f"{RANK}:{name}"] = ranks
            best = best_ranks[name]
            np.minimum(best, _best_ranks(lists, ranker.catalogue.largest), out=best)
        for path, (evaluation, predictor) in self.tasks.items():
            examples = evaluation.examples(predictor, batch, self.baselines.get(path))
            found |= {f"{TASK}:{path}:{name}": values for name, values in examples.items()}
        return found


def unlisted(items: int) -> Ints:
    """[items] best ranks of items that are in no list."""
    return np.full(items, UNLISTED, dtype=np.int64)


def _list(values: Array) -> pa.Array:
    """A column of one row that holds all values."""
    return pa.ListArray.from_arrays([0, len(values)], pa.array(values))


def _best_ranks(lists: Lists, items: int) -> Ints:
    """[items] the best rank of each item in any list."""
    best = unlisted(items)
    for rank in range(lists.ids.shape[1], 0, -1):
        ids = lists.ids[:, rank - 1]
        best[ids[ids > 0] - 1] = rank
    return best
