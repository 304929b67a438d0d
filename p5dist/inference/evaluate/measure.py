"""The metrics of the model and of the baselines.

Metrics of targets (hr, ndcg, mrr, accuracy) and of lists with their targets (precision, recall,
map, list_ndcg, serendipity) have intervals from resampling the users. Metrics of the listed items
alone (coverage, gini, popularity, novelty, diversity) have none: an interval of a mean over all
lists needs a number of every list, and describes a choice of the ranker more than a chance.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.inference.counting import Counted
from p5dist.inference.evaluate.found import Found
from p5dist.inference.evaluate.score import LIST
from p5dist.inference.rankers import MODEL
from p5dist.ranking.list_metrics import novelty, serendipity
from p5dist.ranking.metrics import (
    Estimate,
    estimate,
    list_labels,
    list_values,
    rank_values,
    ranking_labels,
)
from p5dist.ranking.results import LISTS, RANKING
from p5dist.tasks.build import task_of
from p5dist.tasks.evaluation import Evaluation

Metrics = dict[str, dict[str, float | None]]
Baselines = dict[str, dict[str, float]]
# Of the listed items: whether higher values are better, and whether this is compared.
_OF_LISTED = {
    "serendipity": (True, True), "coverage": (True, False), "gini": (False, False),
    "popularity": (False, False), "novelty": (True, False), "diversity": (True, False),
}  # fmt: skip


def ranking_metrics(
    job: RunConfig, found: Found, counted: Counted | None
) -> tuple[Metrics, Baselines]:
    """The metrics of the model with intervals, and of each baseline.

    Args:
        counted: counts of the training interactions; None only if nothing ranks.
    """
    metrics: Metrics = {}
    baselines: Baselines = {}
    for name in found.listed:
        assert counted is not None and job.evaluate is not None
        own = name == MODEL
        resamples = job.evaluate.bootstrap if own else 0
        measured = _of_targets(found, name, counted, resamples, job.seed)
        listed = {key: Estimate(value) for key, value in _of_listed(found, name, counted).items()}
        if own:
            metrics |= {key: asdict(e) for key, e in (measured | listed).items()}
        else:
            baselines[name] = {key: e.value for key, e in (measured | listed).items()}
    return metrics, baselines


def metric_info(job: RunConfig, evaluations: dict[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Heading, label and direction of every metric, and whether it is compared with baselines."""
    assert job.evaluate is not None
    ks = tuple(sorted(set(job.evaluate.k)))
    found: dict[str, dict[str, Any]] = {
        key: {"title": RANKING, "label": label, "higher_is_better": True, "compared": True}
        for key, label in (ranking_labels(ks) | list_labels(ks)).items()
    }
    for name, (higher, compared) in _OF_LISTED.items():
        for k in ks:
            found[f"{name}@{k}"] = {
                "title": LISTS, "label": f"{name}@{k}", "higher_is_better": higher,
                "compared": compared,
            }  # fmt: skip
    for path, evaluation in evaluations.items():
        task = task_of(job, *job.predicting_tasks()[path])
        for key, metric in task.metrics.items():
            found[key] = {"title": evaluation.title, **metric.model_dump()}
    return found


def _of_targets(
    found: Found, ranker: str, counted: Counted, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Means over targets, and over lists with their targets."""
    rank, item, list_ = found.rank(ranker), found.values[c.ITEM], found.values[LIST]
    measured = estimate(
        rank_values(rank, found.ks), found.values[c.USER], resamples=resamples, seed=seed
    )
    of_lists = list_values(rank, item, list_, found.ks) | serendipity(
        rank, item, list_, found.items_of_lists, counted.count, found.catalogue.items, found.ks
    )
    return measured | estimate(of_lists, found.users_of_lists, resamples=resamples, seed=seed)


def _of_listed(found: Found, ranker: str, counted: Counted) -> dict[str, float]:
    """Of the listed items alone; a mean over no list is left out."""
    listed, items = found.listed[ranker], found.catalogue.items
    counts = listed.counts
    values = {
        **counts.coverage(items),
        **counts.gini(items),
        **counts.means("popularity", counted.count),
        **counts.means("novelty", novelty(counted.users, counted.all_users)),
        **listed.mean_diversity(),
    }
    return {key: value for key, value in values.items() if math.isfinite(value)}
