"""The evaluate stage: the trained stages beside the baselines, exactly, over the whole catalogue.

Every interaction of the evaluated split is a target. The history of a target is the user's
interactions of the earlier splits (train, and validation before test); with ``mask_seen`` its items
are left out of the ranking, the target never. Model and baselines see the same targets, histories
and masks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from p5dist.config import RunConfig
from p5dist.config.heads import ClickTask
from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.environment.provenance import provenance
from p5dist.errors import ConfigError, DataError
from p5dist.inference.actors import Load, Reader, errors_as_raised, score_all
from p5dist.inference.evaluate.score import (
    CLICK_USER,
    ITEM_RATE,
    LABEL,
    MODEL,
    PREDICTED,
    PREDICTED_BIAS,
    PROBABILITY,
    SKIPPED,
    Baselines,
    Plan,
    unlisted,
)
from p5dist.inference.scorer import load_scorer
from p5dist.ranking.metrics import click_metrics, coverage, error_values, estimate, rank_values
from p5dist.storage import RunFolder

RESULT = "result.json"
TARGETS = "targets.parquet"
TIES = "equal scores: the lower item id first"

Values = dict[str, npt.NDArray[Any]]


def run(job: RunConfig, folder: RunFolder, *, load: Load = load_scorer) -> dict[str, Any]:
    """Evaluate, write ``evaluate/targets.parquet`` and ``evaluate/result.json`` (last);
    Ray must be connected.

    Args:
        load: gives the trained stage that ranks or predicts.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: the job has no stage to evaluate.
        DataError: the split has no targets.
        CheckpointError: a stage has no complete checkpoint.
        TrainingError: scores or predictions that are not numbers.
    """
    began = time.time()
    assert job.evaluate is not None
    ranking, rating, click = _stages(job)
    manifest = Manifest.load(folder.prepare)
    if not manifest.rows_by_split[job.evaluate.split]:
        raise _no_targets(job, manifest)
    (folder.evaluate / RESULT).remove()
    folder.evaluate.remove()
    folder.evaluate.make()

    with errors_as_raised():
        task = ray.remote(_fit).options(num_returns=2)
        fitted, interactions = task.remote(
            Reader.of(job, folder), manifest, _click_task(job, click)
        )
        interactions = ray.get(interactions)
    share = 1.0 if job.evaluate.users is None else job.evaluate.users / manifest.users
    plan = Plan(job, folder, ranking, rating, click, manifest.rating_range, fitted, load, share)
    found = _Found(manifest.items)
    found.add(score_all(plan, job, folder, manifest, "score"))
    if not len(found.values.get(c.USER, ())):
        raise _no_targets(job, manifest) if share >= 1 else _no_users(job, manifest)
    _write_targets(folder, found.values)
    metrics, baselines = _metrics(job, manifest, found)
    result = {
        "metrics": metrics,
        "baselines": baselines,
        "protocol": {
            "split": job.evaluate.split,
            "catalogue": manifest.items,
            "mask_seen": job.evaluate.mask_seen,
            "max_length": job.feed.max_length,
            "ties": TIES,
            "seed": job.seed,
            "users": len(np.unique(found.values[c.USER])),
            "targets": len(found.values[c.USER]),
            "share_of_users": min(share, 1.0),
            "skipped": found.skipped,
            "ranking_from": ranking,
            "ranking_item_to_item": job.ranking.item_to_item,
            "rating_from": rating,
            "click_from": click,
            "baseline_interactions": interactions,
        },
        **provenance(job, "evaluate", data=manifest.fingerprint, seconds=time.time() - began),
    }
    (folder.evaluate / RESULT).write_json(result)
    return result


@dataclass
class _Found:
    """What the actors found, put together."""

    items: int
    values: Values = field(default_factory=dict)
    """[M] by column."""
    places: dict[str, Ints] = field(default_factory=dict)
    """By ranker: [items] best place of each item in any list."""
    skipped: int = 0

    def add(self, results: Iterable[pa.Table]) -> None:
        parts: dict[str, list[npt.NDArray[Any]]] = {}
        for result in results:
            self.skipped += result[SKIPPED][0].as_py()
            for name in result.column_names:
                kind, _, ranker = name.partition(":")
                if kind == "listed":
                    place = self.places.setdefault(ranker, unlisted(self.items))
                    listed = _values(result, name)
                    place[listed] = np.minimum(place[listed], _values(result, f"place:{ranker}"))
                elif kind not in ("place", SKIPPED):
                    parts.setdefault(name, []).append(_values(result, name))
        self.values = {name: np.concatenate(columns) for name, columns in parts.items()}


def _metrics(
    job: RunConfig, manifest: Manifest, found: _Found
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, float]]]:
    """The metrics of the model with intervals, and those of each baseline."""
    config = job.evaluate
    assert config is not None
    ks, user = tuple(sorted(set(config.k))), found.values[c.USER]
    metrics: dict[str, dict[str, float | None]] = {}
    baselines: dict[str, dict[str, float]] = {}

    def add(name: str, values: dict[str, npt.NDArray[np.float64]], user: Ints) -> None:
        resamples = config.bootstrap if name == MODEL else 0
        for key, e in estimate(values, user, resamples=resamples, seed=job.seed).items():
            if name == MODEL:
                metrics[key] = asdict(e)
            else:
                baselines.setdefault(name, {})[key] = e.value

    for name, place in found.places.items():
        add(name, rank_values(found.values[f"rank:{name}"], ks), user)
        covered = coverage(place, ks)
        if name == MODEL:
            metrics |= {key: {"value": v, "low": None, "high": None} for key, v in covered.items()}
        else:
            baselines[name] |= covered
    if PREDICTED in found.values and manifest.rating_mean is not None:
        rating = found.values[c.RATING]
        rated = ~np.isnan(rating)
        mean = np.full(len(rating), manifest.rating_mean)
        predictions = {MODEL: found.values[PREDICTED], "global_mean": mean}
        predictions["user_item_bias"] = found.values[PREDICTED_BIAS]
        for name, predicted in predictions.items():
            add(name, error_values(predicted[rated], rating[rated]), user[rated])
    for name, column in ((MODEL, PROBABILITY), (ITEM_RATE, ITEM_RATE)):
        if column in found.values:
            measured = click_metrics(
                found.values[LABEL], found.values[column], found.values[CLICK_USER],
                resamples=config.bootstrap if name == MODEL else 0, seed=job.seed,
            )  # fmt: skip
            if name == MODEL:
                metrics |= {key: asdict(e) for key, e in measured.items()}
            else:
                baselines[name] = {key: e.value for key, e in measured.items()}
    return metrics, baselines


def _write_targets(folder: RunFolder, values: Values) -> None:
    """One row a target with internal ids: user, item, rank, and rating and prediction."""
    names = {c.USER: c.USER, c.ITEM: c.ITEM, f"rank:{MODEL}": c.RANK}
    names |= {c.RATING: c.RATING, PREDICTED: PREDICTED}
    table = pa.table({new: values[name] for name, new in names.items() if name in values})
    (folder.evaluate / TARGETS).write_table(table)


def _no_targets(job: RunConfig, manifest: Manifest) -> DataError:
    assert job.evaluate is not None
    return DataError(
        f"no {job.evaluate.split} interactions to evaluate", where="evaluate.split",
        value=manifest.split, rule="a target needs earlier interactions of its user",
        fix="set evaluate.split to another split, or change prepare.split",
    )  # fmt: skip


def _no_users(job: RunConfig, manifest: Manifest) -> DataError:
    assert job.evaluate is not None
    return DataError(
        f"none of the users chosen by chance has a {job.evaluate.split} interaction",
        where="evaluate.users", value=job.evaluate.users,
        rule=f"each of {manifest.users:,} users is chosen alike",
        fix="raise evaluate.users, or leave it out: all are evaluated then",
    )  # fmt: skip


def _fit(reader: Reader, manifest: Manifest, click: ClickTask | None) -> tuple[Baselines, int]:
    baselines = Baselines.fit(reader, manifest, click)
    return baselines, baselines.interactions


def _values(table: pa.Table, name: str) -> npt.NDArray[Any]:
    return np.asarray(table[name].combine_chunks().flatten())


def _click_task(job: RunConfig, stage: str | None) -> ClickTask | None:
    heads = job.trainings()[stage].heads().values() if stage is not None else ()
    return next((head for head in heads if isinstance(head, ClickTask)), None)


def _stages(job: RunConfig) -> tuple[str | None, str | None, str | None]:
    """The training stages that rank, predict ratings and predict clicks."""
    assert job.evaluate is not None
    ranking, rating, click = job.ranking_stages(), job.rating_stage(), job.click_stage()
    if not ranking and rating is None and click is None:
        raise ConfigError(
            "nothing to evaluate", where="evaluate", rule="evaluation needs a trained stage",
            fix="add a pretrain or finetune section, or set evaluate to null",
        )  # fmt: skip
    return job.evaluate.ranking_from or (ranking[-1] if ranking else None), rating, click
