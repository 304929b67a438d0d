"""What is behind the means of the evaluation: segments of targets, and head and tail of the
lists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from p5dist.report.format import metric, percent
from p5dist.report.read import Facts

_SHOWN = "ndcg"
"""The metric of segments that is shown."""


@dataclass(frozen=True)
class Bar:
    """One segment; places on the bar are percent of its width."""

    label: str
    value: float
    low: float | None
    high: float | None
    best: float | None
    """Of the baselines."""
    best_name: str
    targets: int
    users: int
    longest: float
    """The value of a bar of full width."""

    def place(self, value: float | None) -> float:
        """Where a value is."""
        return 0.0 if value is None else min(100 * value / self.longest, 100.0)

    @property
    def words(self) -> str:
        """The bar for screen readers."""
        said = metric(self.value)
        if self.low is not None:
            said += f", interval {metric(self.low)} to {metric(self.high)}"
        return said + (
            "" if self.best is None else f", best baseline {self.best_name} {metric(self.best)}"
        )


@dataclass(frozen=True)
class Family:
    """One family of segments."""

    name: str
    metric: str
    """Display name."""
    bars: list[Bar]


@dataclass(frozen=True)
class Shares:
    """What shares of something are head, middle and tail of the catalogue."""

    name: str
    shares: list[float]

    @property
    def words(self) -> str:
        """The bar for screen readers."""
        return ", ".join(percent(share) for share in self.shares)


def families(evaluation: Facts) -> list[Family]:
    """The families with at least two segments; none of a result of an earlier version."""
    info = evaluation.get("metric_info", {})
    found = []
    for entry in evaluation.get("segments", []):
        segments = entry["segments"]
        if len(segments) < 2:
            continue
        key = next(name for name in segments[0]["metrics"] if name.startswith(f"{_SHOWN}@"))
        bars = [_bar(segment, key) for segment in segments]
        values = [v for bar in bars for v in (bar["value"], bar["high"], bar["best"])]
        longest = max([v for v in values if v is not None]) or 1.0
        shown = [Bar(**bar, longest=longest) for bar in bars]
        found.append(Family(entry["family"], info.get(key, {}).get("label", key), shown))
    return found


def long_tail(evaluation: Facts) -> tuple[list[str], list[Shares]]:
    """The labels of the parts of the catalogue, and the shares of items, training interactions,
    targets and lists."""
    found = evaluation.get("long_tail")
    if not found:
        return [], []
    parts = found["parts"]
    names = {"items": "items", "training": "training interactions", "targets": "targets"}
    rows = [Shares(words, [part[key] for part in parts]) for key, words in names.items()]
    for ranker in parts[0]["listed"]:
        whose = "this run" if ranker == "model" else ranker.replace("_", " ")
        shares = [part["listed"][ranker] for part in parts]
        rows.append(Shares(f"lists: {whose}", shares))
    return [part["label"] for part in parts], rows


def _bar(segment: dict[str, Any], key: str) -> dict[str, Any]:
    own = segment["metrics"][key]
    others = {
        name: values[key]
        for name, values in segment["baselines"].items()
        if values.get(key) is not None and math.isfinite(values[key])
    }
    best = max(others, key=lambda name: others[name], default="")
    return {
        "label": segment["label"], "value": own["value"], "low": own["low"], "high": own["high"],
        "best": others.get(best), "best_name": best.replace("_", " "),
        "targets": segment["targets"], "users": segment["users"],
    }  # fmt: skip
