"""The figures of the page: headline, stages, metrics beside baselines, time split of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from p5dist.report.format import duration, number
from p5dist.report.read import Facts, Run, TrainingRun

_LOWER_IS_BETTER = {"rmse", "mae", "logloss"}
_NAMES = {
    "hr": "HR", "ndcg": "NDCG", "mrr": "MRR", "coverage": "Coverage", "accuracy": "Accuracy",
    "rmse": "RMSE", "mae": "MAE", "auc": "AUC", "logloss": "Log loss",
}  # fmt: skip
_GROUPS = {"rmse": "Rating", "mae": "Rating", "auc": "Click", "logloss": "Click",
           "calibration": "Click"}  # fmt: skip
_DESCRIBED = ("coverage", "calibration")
"""Not compared: popular items cover little and may still be right; calibration is best at 1."""


@dataclass(frozen=True)
class MetricRow:
    """One metric of the model beside the baselines."""

    name: str
    value: float
    low: float | None
    high: float | None
    baselines: list[float | None]
    """In the order of MetricTable.baselines."""
    gain: float | None
    """Relative to the best baseline, positive where the model is better; None for coverage."""
    verdict: str
    """CSS class: good, bad, or muted where the best baseline lies inside the interval."""


@dataclass(frozen=True)
class MetricTable:
    """Metrics of one kind of task."""

    title: str
    baselines: list[str]
    rows: list[MetricRow]


@dataclass(frozen=True)
class Headline:
    """One number in large type, with what it is to be compared with."""

    row: MetricRow
    lower_is_better: bool
    compared: list[tuple[str, float]]

    @property
    def longest(self) -> float:
        """The value that a bar of full width stands for."""
        return max([self.row.value, *(value for _, value in self.compared)]) or 1.0


@dataclass(frozen=True)
class StageRow:
    """One stage: when it ended, how long it took, what it did."""

    stage: str
    finished: str | None
    seconds: float | None
    did: str


@dataclass(frozen=True)
class Part:
    """One part of a training step."""

    name: str
    seconds: float
    """Mean over all steps."""
    share: float


def metric_tables(evaluation: Facts) -> list[MetricTable]:
    """Ranking and rating metrics apart, each with those baselines that have any of them."""
    metrics, baselines = evaluation.get("metrics", {}), evaluation.get("baselines", {})
    groups: dict[str, list[str]] = {}
    for key in metrics:
        groups.setdefault(_GROUPS.get(_family(key), "Ranking"), []).append(key)
    families = list(dict.fromkeys(_family(key) for key in metrics))
    tables = []
    for title, keys in groups.items():
        keys.sort(key=lambda k: families.index(_family(k)))
        names = [n for n, values in baselines.items() if any(k in values for k in keys)]
        rows = [_row(k, metrics[k], [baselines[n].get(k) for n in names]) for k in keys]
        tables.append(MetricTable(title, [plain(n) for n in names], rows))
    return tables


def headlines(tables: list[MetricTable]) -> list[Headline]:
    """NDCG@10 and HR@10 (or the largest k there is), and RMSE."""
    found = []
    for table in tables:
        rows = {row.name: row for row in table.rows}
        for family in ("NDCG", "HR", "RMSE", "AUC"):
            names = [n for n in rows if n.split("@")[0] == family]
            if names:
                row = rows[f"{family}@10" if f"{family}@10" in names else names[-1]]
                if not math.isfinite(row.value):
                    continue
                known = zip(table.baselines, row.baselines, strict=True)
                compared = [(name, value) for name, value in known if value is not None]
                found.append(Headline(row, family.lower() in _LOWER_IS_BETTER, compared))
    return found


def stage_rows(run: Run) -> list[StageRow]:
    """The way of the data, one line a stage that ran or belongs to the job."""
    trainings = {t.stage: t for t in run.trainings}
    rows = []
    for stage in (s for s in run.job.stages() if s != "report"):
        result = run.results.get(stage, {})
        if stage == "prepare":
            result = result or run.profile or {}
            did = _prepared(run)
        elif stage in trainings:
            did = _trained(trainings[stage])
        else:
            did = _ended(stage, result) if result else "not run yet"
        rows.append(StageRow(stage, result.get("finished"), result.get("seconds"), did))
    return rows


def time_split(training: TrainingRun) -> list[Part]:
    """Mean seconds of each part of a step, the largest first.

    A logged step holds the seconds of all steps since the one logged before, so that the sum over
    the log is that of steps 1…last.
    """
    totals: dict[str, float] = {}
    for line in training.log:
        for name, seconds in (line.get("seconds") or {}).items():
            totals[name] = totals.get(name, 0.0) + float(seconds)
    whole = sum(totals.values())
    if not whole:
        return []
    steps = training.log[-1]["step"]
    parts = [Part(plain(name), s / steps, s / whole) for name, s in totals.items()]
    return sorted(parts, key=lambda part: -part.seconds)


def other_facts(result: Facts | None) -> dict[str, Any]:
    """What a result holds beyond provenance, as far as it is a plain value."""
    known = {"stage", "job_fingerprint", "data_fingerprint", "finished", "seconds"}
    values = {} if result is None else result
    return {
        plain(k): v
        for k, v in values.items()
        if k not in known and isinstance(v, (int, float, str, bool))
    }


def plain(name: str) -> str:
    """A key as words: item_to_item → item to item."""
    return name.replace("_", " ")


def _family(key: str) -> str:
    return key.split("@")[0]


def _row(key: str, metric: Facts, baselines: list[float | None]) -> MetricRow:
    family, _, k = key.partition("@")
    name = _NAMES.get(family, family) + (f"@{k}" if k else "")
    value = math.nan if metric.get("value") is None else float(metric["value"])
    known = [b for b in baselines if b is not None and math.isfinite(b)]
    low, high = metric.get("low"), metric.get("high")
    gain, verdict = None, "muted"
    if known and math.isfinite(value) and family not in _DESCRIBED:
        lower = family in _LOWER_IS_BETTER
        best = min(known) if lower else max(known)
        if best:
            gain = (best - value) / best if lower else (value - best) / best
        if gain and (low is None or high is None or not low <= best <= high):
            verdict = "good" if gain > 0 else "bad"
    return MetricRow(name, value, low, high, baselines, gain, verdict)


def _prepared(run: Run) -> str:
    if run.manifest is None:
        return run.data_problem or "not run yet"
    m = run.manifest
    return (
        f"{m.rows_in:,} rows in, {m.rows_kept:,} kept, {m.rows_in - m.rows_kept:,} rejected; "
        f"{m.users:,} users, {m.items:,} items"
    )


def _trained(training: TrainingRun) -> str:
    if not training.log:
        return "no step logged"
    first, last = training.log[0], training.log[-1]
    said = [f"step {last['step']:,}"]
    if last.get("epoch") is not None:
        said.append(f"epoch {int(last['epoch']) + 1:,}")  # logged from 0
    if first.get("loss") is not None and last.get("loss") is not None:
        said.append(f"loss {first['loss']:.3f} → {last['loss']:.3f}")
    speed = training.column("samples_per_second")
    if np.isfinite(speed).any():
        said.append(f"{np.nanmean(speed):,.0f} histories/s")
    if training.result is None:
        said.append("not finished")
    return ", ".join(said)


def _ended(stage: str, result: Facts) -> str:
    protocol = result.get("protocol", {})
    if protocol.get("users") is not None:
        users, items = number(protocol["users"]), number(protocol.get("catalogue"))
        return f"targets of {users} users ranked among {items} items"
    counts = [f"{result[k]:,} {k}" for k in ("users", "rows") if isinstance(result.get(k), int)]
    return ", ".join(counts) or f"done in {duration(result.get('seconds'))}"
