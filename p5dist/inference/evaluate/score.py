"""Scoring the users of a portion: ranks of the targets, examples of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist.config import RunConfig
from p5dist.config.output import Evaluate
from p5dist.data import columns as c
from p5dist.data.jagged import Array
from p5dist.data.manifest import Manifest
from p5dist.data.reader import Portion
from p5dist.data.users import Users
from p5dist.inference import memory
from p5dist.inference.evaluate.audit_counts import AuditCounts, Known, known_of
from p5dist.inference.evaluate.listed import Distances, Lister, distances_of, one_row
from p5dist.inference.fitting import (
    baselines,
    mixture_of,
    read_fitted,
    task_evaluations,
    wanted_baselines,
)
from p5dist.inference.rankers import Rankers, Request
from p5dist.inference.scoring import value_of
from p5dist.ranking.targets import Rule, TargetBatch, Targets
from p5dist.ranking.topk import Ranked
from p5dist.storage import RunFolder
from p5dist.tasks.evaluation import Evaluation, Predictor

Load = Callable[[RunConfig, RunFolder, str], Any]
"""(job, folder, training stage) → the trained stage, see :class:`.scorer.Scorer`."""

REPEATED, SKIPPED, HISTORY_LENGTH = "repeated", "skipped", "history_length"
LIST, LISTED, AUDIT, MEMORY = "list", "listed", "audit", "memory"
RANK, TASK, LEFT_OUT = "rank", "task", "left_out"
"""Prefixes of column names: ``rank:<ranker>``, ``task:<path>:<array>``, ``left_out:<reason>``."""


def rule_of(job: RunConfig, config: Evaluate, manifest: Manifest) -> Rule:
    """The rule that chooses the targets of the evaluation."""
    return Rule.of(job, manifest, config, config.split, "evaluate")


@dataclass(frozen=True)
class TargetScorerFactory:
    """The arguments of the evaluate stage; makes the :class:`TargetScorer` of a process."""

    job: RunConfig
    folder: RunFolder
    manifest: Manifest
    ranking: str | None
    """Training stage whose model ranks."""
    task_baselines: Any
    """The result of :func:`.scoring.run_task` for :func:`.fitting.fit_tasks`."""
    load: Load

    def __call__(self) -> TargetScorer:
        loaded: dict[str, Any] = {}

        def stage(name: str) -> Any:
            if name not in loaded:
                loaded[name] = self.load(self.job, self.folder, name)
            return loaded[name]

        rankers = distances = None
        if self.ranking is not None:
            distances = distances_of(self.job, self.folder.prepare, stage(self.ranking))
            fitted = read_fitted(self.job, self.folder, self.manifest)
            rankers = Rankers(
                self.job.ranking,
                stage(self.ranking),
                mixture_of(self.job, fitted),
                baselines(self.job, self.manifest, fitted),
                compared=fitted.item_to_item
                if "item_to_item" in wanted_baselines(self.job)
                else None,
            )
        paths = self.job.predicting_tasks()
        tasks = {
            path: (evaluation, stage(paths[path][0]).task(paths[path][1]))
            for path, evaluation in task_evaluations(self.job, self.folder, self.manifest).items()
        }
        return TargetScorer(
            self.job, self.manifest, rankers, tasks, value_of(self.task_baselines), distances,
            known_of(self.job, self.folder, self.manifest),
        )  # fmt: skip


class TargetScorer:
    """Scores portions with the model and the baselines.

    The result is one row. Lists with one entry per target: ``user``, ``item``, ``repeated``,
    ``timestamp``, ``history_length``, ``list`` (number of its list in the portion, rising from 0;
    without sessions the targets of a user share a list) and ``rank:<ranker>``. With one entry per
    list: ``listed``, the number of its items, which all rankers have in common. With one entry per
    example of a task: ``task:<path>:<array>``. By ranker the columns of :class:`.listed.Listed`.
    Numbers: ``left_out:<reason>`` and ``skipped`` (users without history). ``audit``: see
    :class:`.audit_counts.AuditCounts`. ``memory``: bytes of the process.
    """

    def __init__(
        self,
        job: RunConfig,
        manifest: Manifest,
        rankers: Rankers | None,
        tasks: Mapping[str, tuple[Evaluation, Predictor]],
        baselines: Mapping[str, Any],
        distances: Distances | None = None,
        known: Known | None = None,
    ) -> None:
        assert job.evaluate is not None
        self.ks = tuple(sorted(set(job.evaluate.k)))
        self.distances, self.known = distances, known
        self.config = job.evaluate
        self.rule = rule_of(job, job.evaluate, manifest)
        self.rankers, self.tasks, self.baselines = rankers, tasks, baselines

    def __call__(self, portion: Portion, users: Users) -> pa.Table:
        targets = Targets.find(users, self.rule)
        batches = [targets.nothing()]
        if len(targets):
            batches = list(targets.batches(self.config.batch_size))
        found: dict[str, list[Array]] = {}
        first = 0
        for batch in batches:
            about = _about(batch) | {LIST: first + batch.owner}
            first += len(batch.histories)
            for name, values in {**about, **self._examples(batch)}.items():
                found.setdefault(name, []).append(values)
        lister = Lister(self.ks, self.distances)
        requests = [self._request(batch) for batch in batches]
        for ranked in self._rank(requests):
            lister.add({name: lists.ids for name, (_, lists) in ranked.items()})
            for name, (ranks, _) in ranked.items():
                found.setdefault(f"{RANK}:{name}", []).append(ranks)
            _, lists = next(iter(ranked.values()))
            found.setdefault(LISTED, []).append((lists.ids > 0).sum(1))
        result = {name: one_row(np.concatenate(parts)) for name, parts in found.items()}
        result |= lister.columns()
        counts = {f"{LEFT_OUT}:{reason}": [n] for reason, n in targets.left_out.items()}
        if self.known is not None:
            result[AUDIT] = pa.array([AuditCounts.of(users, self.rule, self.known).to_json()])
        result[MEMORY] = pa.array([memory.now()])
        return pa.table({SKIPPED: [targets.users_without_history], **counts, **result})

    def _rank(self, requests: list[Request]) -> Iterator[Mapping[str, Ranked]]:
        return iter(()) if self.rankers is None else self.rankers(requests, max(self.config.k))

    def _request(self, batch: TargetBatch) -> Request:
        seen = batch.seen if self.config.mask_seen else None
        return Request(batch.histories, seen, batch.owner, batch.item)

    def _examples(self, batch: TargetBatch) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for path, (evaluation, predictor) in self.tasks.items():
            examples = evaluation.examples(predictor, batch, self.baselines.get(path))
            found |= {f"{TASK}:{path}:{name}": values for name, values in examples.items()}
        return found


def _about(batch: TargetBatch) -> dict[str, Array]:
    """Columns that describe the targets."""
    return {
        c.USER: batch.user,
        c.ITEM: batch.item,
        REPEATED: batch.repeated,
        c.TIMESTAMP: batch.timestamp,
        HISTORY_LENGTH: batch.histories.lengths[batch.owner].astype(np.int32),
    }
