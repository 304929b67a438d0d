"""What ``evaluate/result.json`` says, ordered for people: the terminal and the report show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p5dist.ranking.targets import NO_HISTORY, NOT_CHOSEN, REPEATED

Measured = Mapping[str, float | None]
"""Value, low and high of a metric."""

RANKING = "Ranking"
"""Heading of the ranking metrics."""

_REASONS = {
    NO_HISTORY: "without an earlier interaction to predict from",
    REPEATED: "repeats (evaluate.targets: new)",
    NOT_CHOSEN: "of users that evaluate.users does not choose",
}
# Title, label and direction of the metrics of results that do not say them: of earlier versions.
_EARLIER = {
    "hr": (RANKING, "HR", True), "ndcg": (RANKING, "NDCG", True), "mrr": (RANKING, "MRR", True),
    "rmse": ("Rating", "RMSE", False), "mae": ("Rating", "MAE", False),
    "auc": ("Click", "AUC", True), "logloss": ("Click", "log loss", False),
    "calibration": ("Click", "calibration", True),
}  # fmt: skip
_ONLY_DESCRIBE = ("coverage", "calibration")


@dataclass(frozen=True)
class About:
    """A metric, for people."""

    title: str
    """Heading of the metrics that it is shown with."""
    label: str
    higher_is_better: bool
    compared: bool
    """Whether it is compared with those of baselines."""


@dataclass(frozen=True)
class Group:
    """The metrics of the ranking, or those of one task."""

    title: str
    """``Rating``; of several tasks with the same heading ``Rating: finetune/stars``."""
    ranking: bool
    metrics: Mapping[str, Measured]
    """By name."""
    about: Mapping[str, About]
    """By name of the metric."""
    baselines: Mapping[str, Mapping[str, float | None]]
    """Metrics by name of the baseline; only baselines that have one of these metrics."""


def groups(result: Mapping[str, Any]) -> list[Group]:
    """The metrics of an evaluation: those of the ranking, then those of each task.

    Args:
        result: what evaluate/result.json holds, also one of an earlier version.
    """
    tasks = {path: task for path, task in result.get("tasks", {}).items() if task["metrics"]}
    metrics, baselines = result.get("metrics", {}), result.get("baselines", {})
    info = result.get("metric_info", {})
    by_title: dict[str, dict[str, Any]] = {}
    for key, values in metrics.items():
        by_title.setdefault(_about(key, info).title, {})[key] = values
    if tasks:  # they say their own metrics
        by_title = {RANKING: by_title.get(RANKING, {})}
    found = [_group(title, own, baselines, info) for title, own in by_title.items() if own]
    titles = {path: _about(next(iter(task["metrics"])), info).title for path, task in tasks.items()}
    for path, title in titles.items():
        shown = f"{title}: {path}" if list(titles.values()).count(title) > 1 else title
        found.append(_group(shown, tasks[path]["metrics"], tasks[path]["baselines"], info))
    return found


def accounts(protocol: Mapping[str, Any]) -> str | None:
    """Where every interaction of the split went, in a sentence; None where the result does not say
    it."""
    if "left_out" not in protocol:
        return None
    text = (
        f"{protocol['interactions']:,} {protocol['split']} interactions: "
        f"{protocol['targets']:,} targets"
    )
    for reason, number in protocol["left_out"].items():
        text += f", {number:,} {_REASONS.get(reason, reason)}"
    if protocol["repeats"] and protocol["targets_wanted"] == "all":
        fate = "count as misses (mask_seen)" if protocol["mask_seen"] else "are ranked as any"
        text += f"; {protocol['repeats']:,} targets repeat an item of their user and {fate}"
    return text


def _about(key: str, info: Mapping[str, Mapping[str, Any]]) -> About:
    family, _, k = key.partition("@")
    compared = family not in _ONLY_DESCRIBE
    if key in info:
        said = info[key]
        return About(
            said["title"], said["label"], said["higher_is_better"], said.get("compared", compared)
        )
    title, label, higher = _EARLIER.get(family, (RANKING, family, True))
    return About(title, label + (f"@{k}" if k else ""), higher, compared)


def _group(
    title: str,
    metrics: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, float | None]],
    info: Mapping[str, Mapping[str, Any]],
) -> Group:
    others = {n: values for n, values in baselines.items() if any(k in values for k in metrics)}
    about = {key: _about(key, info) for key in metrics}
    return Group(title, title == RANKING, metrics, about, others)
