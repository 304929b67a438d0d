"""The evaluate stage: exact metrics of the trained stages and baselines, over the whole catalogue.

Every interaction of the evaluated split is a target, or left out and counted by reason (see
:mod:`p5dist.ranking.targets`, which also defines the history and the seen items of a target). Model
and baselines have the same targets, histories and masks.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.manifest import Manifest
from p5dist.environment.provenance import provenance
from p5dist.errors import ConfigError, DataError
from p5dist.inference.evaluate.found import Found
from p5dist.inference.evaluate.measure import metric_info, ranking_metrics
from p5dist.inference.evaluate.protocol_audit import checks
from p5dist.inference.evaluate.score import (
    HISTORY_LENGTH,
    RANK,
    REPEATED,
    Load,
    TargetScorerFactory,
    rule_of,
)
from p5dist.inference.evaluate.segments import of_segments
from p5dist.inference.fitting import fit, fit_tasks, fitted_on, read_fitted, task_evaluations
from p5dist.inference.memory import of_scoring_process
from p5dist.inference.mixing import decided
from p5dist.inference.rankers import MODEL
from p5dist.inference.scorer import load_scorer
from p5dist.inference.scoring import run_task, score_all, workers_for_counts
from p5dist.inference.vectors import Trained, make_vectors
from p5dist.ranking.targets import OTHER_EVENT
from p5dist.ranking.topk import MISSED
from p5dist.storage import RunFolder
from p5dist.tasks.build import task_of
from p5dist.tasks.evaluation import Evaluation

RESULT = "result.json"
TARGETS = "targets.parquet"
TIES = "equal scores: the lower item id first"


def run(job: RunConfig, folder: RunFolder, *, load: Load = load_scorer) -> dict[str, Any]:
    """Evaluate, write ``evaluate/targets.parquet`` and ``evaluate/result.json`` (last);
    Ray must be connected unless :func:`p5dist.inference.scoring.scores_here`.

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
    asked, chosen = job, None
    if ranking is not None:
        job, chosen = decided(job, folder, manifest, ranking, load)
    task_baselines = run_task(job, fit_tasks, job, folder, manifest)
    found = Found(Catalogue.read(folder.prepare, manifest), tuple(sorted(set(config.k))))
    make_scorer = TargetScorerFactory(job, folder, manifest, ranking, task_baselines, load)
    found.add(score_all(make_scorer, job, folder, manifest, "score", columns=_columns(job)))
    if not len(found.values[c.USER]):
        raise (
            _no_users(job, manifest)
            if rule_of(job, config, manifest).share < 1
            else _no_targets(job, manifest, found.left_out)
        )
    evaluations = task_evaluations(job, folder, manifest)
    tasks = {path: _measured(job, path, e, found) for path, e in evaluations.items()}
    _write_targets(folder, evaluations, found)
    fitted = None if ranking is None else read_fitted(job, folder, manifest)
    metrics, baselines = ranking_metrics(job, found, None if fitted is None else fitted.counted)
    for measured in tasks.values():  # if tasks have the same metric, the last task wins
        metrics |= measured["metrics"]
        for name, values in measured["baselines"].items():
            baselines[name] = baselines.get(name, {}) | values
    result = {
        "metrics": metrics,
        "baselines": baselines,
        "tasks": tasks,
        "metric_info": metric_info(job, evaluations),
        "protocol": _protocol(job, manifest, found)
        | {
            "ranking_chosen": chosen,
            "baselines_fitted_on": fitted_on(job, manifest, fitted) if fitted else {},
        },
        "memory": {"planned": of_scoring_process(job, manifest), "measured": found.memory},
        "audit": checks(found.audit, job, folder, manifest, ranks=found.ranks()),
        **(of_segments(job, folder, manifest, found, fitted.counted) if fitted else {}),
        **provenance(asked, "evaluate", data=manifest.fingerprint, seconds=time.time() - began),
    }
    (folder.evaluate / RESULT).write_json(result)
    return result


def _protocol(job: RunConfig, manifest: Manifest, found: Found) -> dict[str, Any]:
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
        "lists": found.lists,
        "targets_wanted": config.targets,
        "events": None
        if rule.events is None
        else [list(manifest.events)[code - 1] for code in rule.events],
        "repeats": int(found.values[REPEATED].sum()) + found.left_out.get(REPEATED, 0),
        "interactions": interactions,
        "left_out": found.left_out,
        "histories": "sessions" if rule.sessions else "users",
        "share_of_users": rule.share,
        "skipped": found.skipped,
        "ranking_from": _ranking_stage(job),
        "ranking_item_to_item": job.ranking.item_to_item,
        "ranking_returns": job.ranking.returns,
        "diversity_by": config.diversity_by,
        **_sources(job),
    }


def _measured(job: RunConfig, path: str, evaluation: Evaluation, found: Found) -> dict[str, Any]:
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


def _columns(job: RunConfig) -> tuple[str, ...]:
    """Columns of the histories that are read: the times of the targets as well, if the log has
    times."""
    timed = job.prepare.source.columns.timestamp is not None
    return tuple(dict.fromkeys((*job.history_columns(), *([c.TIMESTAMP] if timed else []))))


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


def _write_targets(folder: RunFolder, evaluations: dict[str, Evaluation], found: Found) -> None:
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
    value = manifest.split + (f"; left out: {counted}" if counted else "")
    if set(left_out) == {OTHER_EVENT}:
        wanted = ", ".join(job.evaluate.events or getattr(job.prepare.split, "events", None) or ())
        return DataError(
            f"no {job.evaluate.split} interaction is of the events that are evaluated",
            where="evaluate.events", value=f"{wanted}; {value}",
            rule="targets are the held-out interactions of these events",
            fix="name other events in evaluate.events, or hold these out: prepare.split.events",
        )  # fmt: skip
    return DataError(
        f"no {job.evaluate.split} interactions to evaluate", where="evaluate.split", value=value,
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
