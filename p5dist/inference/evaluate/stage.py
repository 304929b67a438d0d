"""The evaluate stage: exact metrics of the trained stages and baselines, over the whole catalogue.

Every interaction of the evaluated split is a target, or left out and counted by reason (see
:mod:`p5dist.ranking.targets`, which also defines the history and the seen items of a target). Model
and baselines have the same targets, histories and masks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Array
from p5dist.data.manifest import Manifest
from p5dist.environment.provenance import provenance
from p5dist.errors import ConfigError, DataError
from p5dist.inference.actors import run_task, score_all, workers_for_counts
from p5dist.inference.evaluate.score import (
    BEST_RANK,
    HISTORY_LENGTH,
    LEFT_OUT,
    LISTED,
    RANK,
    REPEATED,
    SKIPPED,
    TASK,
    BestRanks,
    Load,
    TargetScorerFactory,
    rule_of,
)
from p5dist.inference.fitting import fit, fit_tasks, fitted_on, read_fitted, task_evaluations
from p5dist.inference.rankers import MODEL
from p5dist.inference.scorer import load_scorer
from p5dist.inference.vectors import Trained, make_vectors
from p5dist.ranking.metrics import Estimate, coverage, estimate, rank_values, ranking_labels
from p5dist.ranking.results import RANKING
from p5dist.ranking.topk import MISSED
from p5dist.storage import RunFolder
from p5dist.tasks.build import task_of
from p5dist.tasks.evaluation import Evaluation

RESULT = "result.json"
TARGETS = "targets.parquet"
TIES = "equal scores: the lower item id first"
Metrics = dict[str, dict[str, float | None]]
Baselines = dict[str, dict[str, float]]


def run(job: RunConfig, folder: RunFolder, *, load: Load = load_scorer) -> dict[str, Any]:
    """Evaluate, write ``evaluate/targets.parquet`` and ``evaluate/result.json`` (last);
    Ray must be connected unless :func:`p5dist.inference.actors.scores_here`.

    Args:
        load: loads a trained stage that ranks or predicts.

    Returns:
        The content of result.json.

    Raises:
        ConfigError: the job has no stage to evaluate.
        DataError: the split has no targets.
        CheckpointError: a stage has no complete checkpoint.
        TrainingError: scores or predictions are not numbers.
    """
    began = time.time()
    config = job.evaluate
    assert config is not None
    ranking = _ranking_stage(job)
    manifest = Manifest.load(folder.prepare)
    if not manifest.rows_by_split[config.split]:
        raise _no_targets(job, manifest, {})
    (folder.evaluate / RESULT).remove()
    folder.evaluate.remove()
    folder.evaluate.make()

    with closing(workers_for_counts(job, manifest, "evaluate")) as workers:
        if ranking is not None:
            fit(job, folder, manifest, workers)
        if load is load_scorer:
            for stage in _stages(job, ranking):
                make_vectors(Trained(job, folder, stage), workers)
    task_baselines = run_task(job, fit_tasks, job, folder, manifest)
    found = _Found(Catalogue.read(folder.prepare, manifest))
    make_scorer = TargetScorerFactory(job, folder, manifest, ranking, task_baselines, load)
    found.add(score_all(make_scorer, job, folder, manifest, "score"))
    if not len(found.values[c.USER]):
        raise (
            _no_users(job, manifest)
            if rule_of(job, config, manifest).share < 1
            else _no_targets(job, manifest, found.left_out)
        )
    evaluations = task_evaluations(job, folder, manifest)
    tasks = {path: _measured(job, path, e, found) for path, e in evaluations.items()}
    _write_targets(folder, evaluations, found)
    metrics, baselines = _ranking_metrics(job, found)
    for measured in tasks.values():  # if tasks have the same metric, the last task wins
        metrics |= measured["metrics"]
        for name, values in measured["baselines"].items():
            baselines[name] = baselines.get(name, {}) | values
    result = {
        "metrics": metrics,
        "baselines": baselines,
        "tasks": tasks,
        "metric_info": _metric_info(job, evaluations),
        "protocol": _protocol(job, manifest, found)
        | {"baselines_fitted_on": _fitted_on(job, folder, manifest, ranking)},
        **provenance(job, "evaluate", data=manifest.fingerprint, seconds=time.time() - began),
    }
    (folder.evaluate / RESULT).write_json(result)
    return result


def _protocol(job: RunConfig, manifest: Manifest, found: _Found) -> dict[str, Any]:
    """How the metrics were measured, and where every interaction of the split went."""
    config = job.evaluate
    assert config is not None
    rule = rule_of(job, config, manifest)
    users = found.values[c.USER]
    interactions = manifest.rows_by_split[config.split]
    accounted = len(users) + sum(found.left_out.values())
    assert accounted == interactions, "every interaction is a target or left out for a reason"
    return {
        "split": config.split,
        "catalogue": found.catalogue.items,
        "ranked_ids": len(found.catalogue),
        "mask_seen": config.mask_seen,
        "max_length": job.feed.max_length,
        "ties": TIES,
        "seed": job.seed,
        "users": len(np.unique(users)),
        "targets": len(users),
        "targets_wanted": config.targets,
        "repeats": int(found.values[REPEATED].sum()) + found.left_out.get(REPEATED, 0),
        "interactions": interactions,
        "left_out": found.left_out,
        "histories": "sessions" if rule.sessions else "users",
        "share_of_users": rule.share,
        "skipped": found.skipped,
        "ranking_from": _ranking_stage(job),
        "ranking_item_to_item": job.ranking.item_to_item,
        **_sources(job),
    }


@dataclass
class _Found:
    """The results of all portions together."""

    catalogue: Catalogue
    values: dict[str, Array] = field(default_factory=dict)
    """By column."""
    best_ranks: dict[str, BestRanks] = field(default_factory=dict)
    """By ranker."""
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: int = 0

    def add(self, results: Iterable[pa.Table]) -> None:
        parts: dict[str, list[Array]] = {}
        for result in results:
            self.skipped += result[SKIPPED][0].as_py()
            for name in result.column_names:
                kind, _, about = name.partition(":")
                if kind == LISTED:
                    ranks = _values(result, f"{BEST_RANK}:{about}")
                    listed = BestRanks(_values(result, name), ranks)
                    self.best_ranks[about] = listed.joined(self.best_ranks.get(about))
                elif kind == LEFT_OUT:
                    self.left_out[about] = self.left_out.get(about, 0) + result[name][0].as_py()
                elif kind not in (BEST_RANK, SKIPPED):
                    parts.setdefault(name, []).append(_values(result, name))
        self.values = {name: np.concatenate(columns) for name, columns in parts.items()}

    def examples(self, path: str) -> dict[str, Array]:
        """The arrays of a task."""
        begin = f"{TASK}:{path}:"
        return {
            name.removeprefix(begin): values
            for name, values in self.values.items()
            if name.startswith(begin)
        }


def _ranking_metrics(job: RunConfig, found: _Found) -> tuple[Metrics, Baselines]:
    """The ranking metrics of the model with intervals, and of each baseline."""
    config = job.evaluate
    assert config is not None
    ks = tuple(sorted(set(config.k)))
    metrics: Metrics = {}
    baselines: Baselines = {}
    for name, best in found.best_ranks.items():
        own = name == MODEL
        measured = estimate(
            rank_values(found.values[f"{RANK}:{name}"], ks), found.values[c.USER],
            resamples=config.bootstrap if own else 0, seed=job.seed,
        )  # fmt: skip
        shares = coverage(best.rank, ks, found.catalogue.items)
        covered = {key: Estimate(value) for key, value in shares.items()}
        if own:
            metrics |= {key: asdict(e) for key, e in (measured | covered).items()}
        else:
            baselines[name] = {key: e.value for key, e in (measured | covered).items()}
    return metrics, baselines


def _measured(job: RunConfig, path: str, evaluation: Evaluation, found: _Found) -> dict[str, Any]:
    """The metrics of a predicting task and of its baselines."""
    config = job.evaluate
    assert config is not None
    examples = found.examples(path)
    measured = evaluation.measure(examples, resamples=config.bootstrap, seed=job.seed)
    stage, name = job.predicting_tasks()[path]
    return {
        "kind": task_of(job, stage, name).kind,
        "examples": evaluation.number(examples),
        "metrics": {key: asdict(e) for key, e in measured.get(MODEL, {}).items()},
        "baselines": {
            other: {key: e.value for key, e in values.items()}
            for other, values in measured.items()
            if other != MODEL
        },
    }


def _metric_info(job: RunConfig, evaluations: dict[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Heading, label and direction of every metric, and whether it is compared with baselines."""
    config = job.evaluate
    assert config is not None
    found: dict[str, dict[str, Any]] = {
        key: {"title": RANKING, "label": label, "higher_is_better": True,
              "compared": not key.startswith("coverage")}
        for key, label in ranking_labels(tuple(sorted(set(config.k)))).items()
    }  # fmt: skip
    for path, evaluation in evaluations.items():
        task = task_of(job, *job.predicting_tasks()[path])
        for key, metric in task.metrics.items():
            found[key] = {"title": evaluation.title, **metric.model_dump()}
    return found


def _fitted_on(
    job: RunConfig, folder: RunFolder, manifest: Manifest, ranking: str | None
) -> dict[str, str]:
    return {} if ranking is None else fitted_on(job, manifest, read_fitted(job, folder, manifest))


def _stages(job: RunConfig, ranking: str | None) -> list[str]:
    """The training stages whose models rank or predict."""
    predicting = [stage for stage, _ in job.predicting_tasks().values()]
    return list(dict.fromkeys([*([] if ranking is None else [ranking]), *predicting]))


def _sources(job: RunConfig) -> dict[str, str | None]:
    """``<kind>_from``: the (last) training stage with a predicting task of this kind."""
    found: dict[str, str | None] = {"rating_from": None, "click_from": None}
    for stage, name in job.predicting_tasks().values():
        found[f"{task_of(job, stage, name).kind}_from"] = stage
    return found


def _write_targets(folder: RunFolder, evaluations: dict[str, Evaluation], found: _Found) -> None:
    """One row per target with internal ids: user, item, rank (null: cannot be listed), what
    describes the target, ``rank:<ranker>`` of the other rankers, and the columns of tasks; with
    several tasks each column also as ``<task>:<column>``."""
    columns: dict[str, Any] = {c.USER: found.values[c.USER], c.ITEM: found.values[c.ITEM]}
    for column, rank in found.values.items():
        kind, _, ranker = column.partition(":")
        if kind == RANK:
            columns[c.RANK if ranker == MODEL else column] = pa.array(rank, mask=rank == MISSED)
    about = (c.TIMESTAMP, HISTORY_LENGTH, REPEATED)
    columns |= {name: found.values[name] for name in about}
    for path, evaluation in evaluations.items():
        own = evaluation.columns(found.examples(path))
        columns |= own
        if len(evaluations) > 1:
            columns |= {f"{path}:{name}": values for name, values in own.items()}
    (folder.evaluate / TARGETS).write_table(pa.table(columns))


def _no_targets(job: RunConfig, manifest: Manifest, left_out: dict[str, int]) -> DataError:
    assert job.evaluate is not None
    counted = ", ".join(f"{reason} {n:,}" for reason, n in left_out.items())
    return DataError(
        f"no {job.evaluate.split} interactions to evaluate", where="evaluate.split",
        value=manifest.split + (f"; left out: {counted}" if counted else ""),
        rule="a target needs earlier interactions of its user",
        fix="set evaluate.split to another split, or change prepare.split",
    )  # fmt: skip


def _no_users(job: RunConfig, manifest: Manifest) -> DataError:
    assert job.evaluate is not None
    users = manifest.users_by_split[job.evaluate.split]
    return DataError(
        f"none of the users chosen by chance has a {job.evaluate.split} interaction to evaluate",
        where="evaluate.users", value=job.evaluate.users,
        rule=f"each of {users:,} users with such an interaction has the same probability",
        fix="raise evaluate.users, or leave it out to evaluate all users",
    )  # fmt: skip


def _values(table: pa.Table, name: str) -> Array:
    return np.asarray(table[name].combine_chunks().flatten())


def _ranking_stage(job: RunConfig) -> str | None:
    """The training stage that ranks; None if no stage ranks."""
    assert job.evaluate is not None
    stages = job.ranking_stages()
    if not stages and not job.predicting_tasks():
        raise ConfigError(
            "nothing to evaluate", where="evaluate", rule="evaluation needs a trained stage",
            fix="add a pretrain or finetune section, or set evaluate to null",
        )  # fmt: skip
    return job.evaluate.ranking_from or (stages[-1] if stages else None)
