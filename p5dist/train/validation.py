"""Validation during training: the evaluation of held-out interactions by all workers together.

It runs the code of the evaluation (targets, masks, ranks, metrics) while the embedding tables stay
sharded: all workers look up a block of item vectors together, and each ranks the targets of its
share of the users against it. No worker holds the vectors of the whole catalogue. The chosen users
and the metric do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from p5dist.config.run import key_of
from p5dist.config.validation import RANKING_METRIC, Validating
from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Array
from p5dist.data.reader import ShardReader
from p5dist.errors import ConfigError
from p5dist.inference.scorer import Scorer
from p5dist.ranking.metrics import rank_values
from p5dist.ranking.products import rank_products
from p5dist.ranking.targets import Rule, TargetBatch, Targets
from p5dist.ranking.tiles import Query
from p5dist.storage import RunFolder
from p5dist.tasks.build import offsets_of, task_of
from p5dist.tasks.evaluation import MODEL, Evaluation
from p5dist.tasks.task import Context
from p5dist.train.session import Session

_HISTORIES_AT_ONCE = 1024
_ROWS_AT_ONCE = 8192


def make_validator(session: Session, folder: RunFolder) -> Validator | None:
    """The validation of a stage; None where its job asks for none."""
    config = session.validating
    if config is None:
        return None
    targets = read_targets(session, folder, config)
    catalogue = Catalogue.read(folder.prepare, session.manifest)
    offsets = offsets_of(session.job, session.stage, session.manifest, folder.prepare)

    def scorer() -> Scorer:
        return Scorer(
            session.inner,
            session.collate,
            catalogue,
            session.job.feed.max_length,
            device=session.device,
            shuffled=session.training.shuffled,
            offsets=offsets,
        )

    metric: Metric = RankingMetric(config)
    if not RANKING_METRIC.match(config.metric):
        metric = _task_metric(session, folder, config)
    return Validator(config, scorer, targets, metric, session.device)


class Validator:
    """Scores the model as it is; all workers call it at the same step.

    Args:
        make: the model as it is now, ready to score.
        targets: this worker's share.
        metric: computed from the targets.
        device: of the exchanges between workers.
    """

    def __init__(
        self,
        config: Validating,
        make: Callable[[], Scorer],
        targets: list[Targets],
        metric: Metric,
        device: torch.device,
    ) -> None:
        self.config = config
        self.higher_is_better = metric.higher_is_better
        self._make = make
        self._targets = targets
        self._metric = metric
        self._device = device

    def __call__(self) -> float | None:
        """The metric over all targets of all workers; None without targets, if the job leaves it
        to p5dist whether the stage is validated.

        Raises:
            ConfigError: no user with a target was chosen.
        """
        value = self._metric.measure(self._make(), self._batches())
        if value is None and self.config.asked:
            raise ConfigError(
                "none of the users chosen by chance can be validated on",
                where="validation.users", value=self.config.users,
                rule=f"{self.config.metric} needs a target", fix="raise validation.users",
            )  # fmt: skip
        return value

    def _batches(self) -> Iterator[TargetBatch]:
        """Equally many on every worker, since looking up items takes all of them."""
        own = [batch for part in self._targets for batch in part.batches(_HISTORIES_AT_ONCE)]
        most = torch.tensor(len(own), device=self._device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        yield from [*own, *[self._targets[0].nothing()] * (int(most) - len(own))]


class Metric:
    """A number that all workers compute together from their batches of targets."""

    higher_is_better = True

    def measure(self, scorer: Scorer, batches: Iterator[TargetBatch]) -> float | None:
        """The metric over the batches of all workers; None where there is no target."""
        raise NotImplementedError


class RankingMetric(Metric):
    """ndcg@k, hr@k or mrr@k of the model."""

    def __init__(self, config: Validating) -> None:
        self._name, self._mask_seen = config.metric, config.mask_seen

    def measure(self, scorer: Scorer, batches: Iterator[TargetBatch]) -> float | None:
        k = int(self._name.split("@")[1])
        queries = [
            Query(
                scorer.user_vectors(batch.histories), batch.owner, batch.item,
                batch.seen if self._mask_seen else None,
            )
            for batch in batches
        ]  # fmt: skip
        total = torch.zeros(2, dtype=torch.float64)
        for ((ranks, _),) in rank_products(queries, scorer.items(), 1):
            gains = rank_values(ranks, (k,))[self._name]
            total += torch.tensor([gains.sum(), float(len(gains))])
        total = total.to(scorer.device)
        dist.all_reduce(total)
        hits, number = total.tolist()
        return hits / number if number else None


class TaskMetric(Metric):
    """A metric of the predictions of a task.

    Args:
        name: of the metric.
        task: name of the task in its stage.
        evaluation: of the task.
    """

    def __init__(
        self, name: str, task: str, evaluation: Evaluation, *, higher_is_better: bool
    ) -> None:
        self.higher_is_better = higher_is_better
        self._name, self._task, self._evaluation = name, task, evaluation

    def measure(self, scorer: Scorer, batches: Iterator[TargetBatch]) -> float | None:
        predictor = scorer.task(self._task)
        parts = [self._evaluation.examples(predictor, batch, None) for batch in batches]
        if not parts:  # on no worker, see Validator
            return None
        mine = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, mine)
        examples: dict[str, Array] = {
            name: np.concatenate([worker[name] for worker in gathered]) for name in mine
        }
        measured = self._evaluation.measure(examples, resamples=0, seed=0).get(MODEL, {})
        return measured[self._name].value if self._name in measured else None


def _task_metric(session: Session, folder: RunFolder, config: Validating) -> TaskMetric:
    job, stage = session.job, session.stage
    task_name, _, metric = config.metric.rpartition("/")
    for name, section in session.training.tasks().items():
        if metric in section.metrics and task_name in ("", name):
            evaluation = task_of(job, stage, name).evaluation(
                Context(job, session.manifest, folder.prepare, name)
            )
            assert evaluation is not None, "a task with metrics has an evaluation"
            better = section.metrics[metric].higher_is_better
            return TaskMetric(metric, name, evaluation, higher_is_better=better)
    raise AssertionError("the job file is checked for it")


def read_targets(session: Session, folder: RunFolder, config: Validating) -> list[Targets]:
    """This worker's share of the validation interactions of about ``config.users`` users.

    Raises:
        ConfigError: the prepared data has no validation interactions.
    """
    job, manifest = session.job, session.manifest
    if not manifest.users_by_split["validation"]:
        raise ConfigError(
            "there is nothing to validate on", where="validation",
            rule="the split keeps interactions for validation",
            fix="choose a split that does (prepare.split), or leave validation out",
        )  # fmt: skip
    rule = Rule.of(job, manifest, config, "validation", f"{key_of(session.stage)}.validation")
    reader = ShardReader(folder.prepare, manifest, job.history_columns())
    mine = reader.portions(_ROWS_AT_ONCE)[dist.get_rank() :: dist.get_world_size()]
    found = [Targets.find(reader.users(portion), rule) for portion in mine]
    return [part for part in found if len(part)] or [Targets.none(rule)]
