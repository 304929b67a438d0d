"""Trials: runs that differ from a job in the settings that are searched, and share its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from p5dist.config import RunConfig, dump_job, parse_job
from p5dist.config.validation import RANKING_METRIC
from p5dist.errors import ConfigError
from p5dist.observe.metrics_log import read_validation
from p5dist.observe.stages import marker
from p5dist.storage import RunFolder

Settings = Mapping[str, Any]
"""Values by key of the job file."""


@dataclass(frozen=True)
class Goal:
    """The number that is searched for: a metric of the validations of a training stage."""

    stage: str
    metric: str
    higher_is_better: bool

    @classmethod
    def of(cls, job: RunConfig, metric: str | None) -> Goal:
        """The last training stage that validates by ``metric``, or by any.

        Raises:
            ConfigError: there is none.
        """
        stages = {
            stage: training.validated_by
            for stage, training in job.trainings().items()
            if training.validated_by is not None
        }
        for stage in reversed(stages):
            if metric in (None, stages[stage]):
                return cls(stage, stages[stage], _higher(job, stage, stages[stage]))
        raise ConfigError(
            "no training stage is validated by this metric" if stages else
            "no training stage is validated", where="tune --metric", value=metric,
            rule="trials are compared by their validations, never by test interactions; this job "
            f"has: {', '.join(f'{m} in {s}' for s, m in stages.items()) or 'none'}",
            fix="give the stage a validation, such as validation: {every: 200, metric: ndcg@10}",
        )  # fmt: skip

    def best(self, values: list[float]) -> float | None:
        """The best of some values; None without any."""
        return (max if self.higher_is_better else min)(values, default=None)


def _higher(job: RunConfig, stage: str, metric: str) -> bool:
    if RANKING_METRIC.match(metric):
        return True
    name, _, own = metric.rpartition("/")
    tasks = job.trainings()[stage].tasks()
    chosen = [tasks[name]] if name else list(tasks.values())
    return next(t.metrics[own].higher_is_better for t in chosen if own in t.metrics)


def trial_job(job: RunConfig, settings: Settings) -> RunConfig:
    """The job of a trial: the name is a function of the settings, so that a search that starts
    again finds its runs.

    Raises:
        ConfigError: the settings do not fit each other.
    """
    text = json.dumps(dict(settings), sort_keys=True)
    name = f"{job.name}-trial-{sha256(text.encode()).hexdigest()[:8]}"
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    own = [f"name={name}", f"data_of={job.data_of or job.name}", "evaluate=null",
           "recommend=null", "report=null"]  # fmt: skip
    return parse_job(dump_job(job, defaults=False), [*overrides, *own], where=name)


@dataclass(frozen=True)
class Trial:
    """What became of a trial."""

    run: str
    """Name of its run."""
    settings: Settings
    validations: tuple[tuple[int, float], ...]
    """(step, value) in order."""
    best: float | None
    complete: bool
    """Trained to its end; else it was stopped early."""
    error: str | None
    """Of a trial that failed."""

    @classmethod
    def read(
        cls, job: RunConfig, goal: Goal, settings: Settings, error: str | None = None
    ) -> Trial:
        """From the run folder."""
        one = trial_job(job, settings)
        folder = RunFolder.of_job(one)
        validations = tuple(
            (line["step"], line["value"])
            for line in read_validation(folder.training(goal.stage))
            if line["metric"] == goal.metric
        )
        best = goal.best([value for _, value in validations])
        complete = marker(folder, goal.stage).exists()
        return cls(one.name, settings, validations, best, complete, error)
