"""The content of ``evaluate/result.json``, grouped for display in the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from p5dist.ranking.targets import NO_HISTORY, NOT_CHOSEN, OTHER_EVENT, REPEATED

Measured = Mapping[str, float | None]
"""Value, low and high of a metric."""

RANKING, LISTS = "Ranking", "Lists"
"""Headings of the ranking metrics, and of the metrics of the listed items."""
_OF_SEVERAL_TARGETS = ("precision", "recall", "map", "list_ndcg")
"""Metrics of lists that say nothing beyond hr, mrr and ndcg if every list has one target."""

_REASONS = {
    NO_HISTORY: "without an earlier interaction to predict from",
    REPEATED: "repeats (evaluate.targets: new)",
    OTHER_EVENT: "of other events than targets (evaluate.events, prepare.split.events)",
    NOT_CHOSEN: "of users that evaluate.users does not choose",
}
# Title, label and direction of metrics, for results of earlier versions, which do not have them.
_EARLIER = {
    "hr": (RANKING, "HR", True), "ndcg": (RANKING, "NDCG", True), "mrr": (RANKING, "MRR", True),
    "rmse": ("Rating", "RMSE", False), "mae": ("Rating", "MAE", False),
    "auc": ("Click", "AUC", True), "logloss": ("Click", "log loss", False),
    "calibration": ("Click", "calibration", True),
}  # fmt: skip
_ONLY_DESCRIBE = ("coverage", "calibration")


@dataclass(frozen=True)
class About:
    """How a metric is displayed."""

    title: str
    """Heading of the group of metrics."""
    label: str
    higher_is_better: bool
    compared: bool
    """Whether the metric is compared with the baselines."""


@dataclass(frozen=True)
class Group:
    """The metrics of the ranking, or of one task."""

    title: str
    """``Rating``; if several tasks have the same heading, ``Rating: finetune/stars``."""
    ranking: bool
    metrics: Mapping[str, Measured]
    """By name."""
    about: Mapping[str, About]
    """By name of the metric."""
    baselines: Mapping[str, Mapping[str, float | None]]
    """Metrics by name of the baseline; only baselines that have one of these metrics."""
    examples: int | None = None
    """Examples that a task is measured on, such as the rated ones of the targets; None: of the
    ranking, or of an earlier version."""


def groups(result: Mapping[str, Any]) -> list[Group]:
    """The metrics of an evaluation: first of the ranking, then of the lists, then of each task.
    Metrics of lists with several targets are left out if every list has one target.

    Args:
        result: content of evaluate/result.json, also of an earlier version.
    """
    tasks = {path: task for path, task in result.get("tasks", {}).items() if task["metrics"]}
    metrics, baselines = result.get("metrics", {}), result.get("baselines", {})
    info = result.get("metric_info", {})
    protocol = result.get("protocol", {})
    one_target = "lists" in protocol and protocol["lists"] == protocol["targets"]
    by_title: dict[str, dict[str, Any]] = {RANKING: {}, LISTS: {}}
    for key, values in metrics.items():
        if one_target and key.partition("@")[0] in _OF_SEVERAL_TARGETS:
            continue
        by_title.setdefault(_about(key, info).title, {})[key] = values
    if tasks:  # each task has its own metrics
        by_title = {title: by_title[title] for title in (RANKING, LISTS)}
    found = [_group(title, own, baselines, info) for title, own in by_title.items() if own]
    titles = {path: _about(next(iter(task["metrics"])), info).title for path, task in tasks.items()}
    for path, title in titles.items():
        shown = f"{title}: {path}" if list(titles.values()).count(title) > 1 else title
        group = _group(shown, tasks[path]["metrics"], tasks[path]["baselines"], info)
        found.append(replace(group, examples=tasks[path].get("examples")))
    return found


def main_k(ks: Iterable[int]) -> int:
    """The length of lists whose metrics are shown where there is room for one: 10, else the largest
    below, else the smallest."""
    found = sorted(ks)
    return max((k for k in found if k <= 10), default=found[0])


def accounts(protocol: Mapping[str, Any]) -> str | None:
    """A sentence that counts the targets of the split and the interactions that were left out, by
    reason; None for a result without these counts."""
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
