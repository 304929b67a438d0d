"""The numbers of the page: headlines, stages, metrics and baselines, time split of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from p5dist.ranking.results import LISTS, About, Measured, groups
from p5dist.report.format import duration, number
from p5dist.report.read import Facts, Run, TrainingRun
from p5dist.train.private.outcome import headline

_OF_RANKING = ("ndcg", "hr")
"""Ranking metrics that are shown as headlines."""


@dataclass(frozen=True)
class MetricRow:
    """One metric of the model and the baselines."""

    key: str
    name: str
    """Display name."""
    value: float
    low: float | None
    high: float | None
    baselines: list[float | None]
    """In the order of MetricTable.baselines."""
    gain: float | None
    """Relative to the best baseline, positive if the model is better; None without baseline, or if
    the metric only describes the predictions."""
    lower_is_better: bool
    verdict: str
    """CSS class: good, bad, or muted if the best baseline lies inside the interval."""


@dataclass(frozen=True)
class MetricTable:
    """Metrics of the ranking, or of one task."""

    title: str
    ranking: bool
    baselines: list[str]
    rows: list[MetricRow]
    examples: int | None
    """Of a task; None: of the ranking, or not known."""


@dataclass(frozen=True)
class Headline:
    """One number in large type, and the baselines to compare it with."""

    row: MetricRow
    task: str
    """Title of the metrics; empty for the ranking."""
    compared: list[tuple[str, float]]

    @property
    def longest(self) -> float:
        """The value of a bar of full width."""
        return max([self.row.value, *(value for _, value in self.compared)]) or 1.0


@dataclass(frozen=True)
class StageRow:
    """One stage: when it ended, how long it took, and a summary of its result."""

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
    """One table for the ranking and one for each task, with the baselines that have any of its
    metrics; metrics of one family, such as hr@1 and hr@10, are adjacent."""
    tables = []
    for group in groups(evaluation):
        families = list(dict.fromkeys(_family(key) for key in group.metrics))
        keys = sorted(group.metrics, key=lambda k: families.index(_family(k)))
        rows = [
            _row(k, group.about[k], group.metrics[k], [b.get(k) for b in group.baselines.values()])
            for k in keys
        ]
        tables.append(
            MetricTable(
                group.title,
                group.ranking,
                [plain(n) for n in group.baselines],
                rows,
                group.examples,
            )
        )
    return tables


def headlines(tables: list[MetricTable]) -> list[Headline]:
    """NDCG@10 and HR@10 (without k = 10 the largest k), and the first metric of each task."""
    found = []
    for table in tables:
        if table.title == LISTS:
            continue
        chosen = table.rows[:1]
        if table.ranking:
            rows = {row.key: row for row in table.rows}
            families = [[k for k in rows if _family(k) == family] for family in _OF_RANKING]
            chosen = [
                rows[f"{_family(keys[0])}@10"]
                if f"{_family(keys[0])}@10" in keys
                else rows[keys[-1]]
                for keys in families
                if keys
            ]
        for row in chosen:
            if math.isfinite(row.value):
                known = zip(table.baselines, row.baselines, strict=True)
                compared = [(name, value) for name, value in known if value is not None]
                found.append(Headline(row, "" if table.ranking else table.title, compared))
    return found


def stage_rows(run: Run) -> list[StageRow]:
    """One row for every stage of the job except the report."""
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

    A logged step holds the seconds of all steps since the previous logged step, so the sum over the
    log covers the steps 1…last.
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
    """The plain values of a result, without provenance."""
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


def _row(key: str, about: About, metric: Measured, baselines: list[float | None]) -> MetricRow:
    measured = metric.get("value")
    value = math.nan if measured is None else measured
    known = [b for b in baselines if b is not None and math.isfinite(b)]
    low, high = metric.get("low"), metric.get("high")
    lower = not about.higher_is_better
    gain, verdict = None, "muted"
    if known and math.isfinite(value) and about.compared:
        best = min(known) if lower else max(known)
        if best:
            gain = (best - value) / best if lower else (value - best) / best
        if gain and (low is None or high is None or not low <= best <= high):
            verdict = "good" if gain > 0 else "bad"
    label = about.label[:1].upper() + about.label[1:]
    return MetricRow(key, label, value, low, high, baselines, gain, lower, verdict)


def _prepared(run: Run) -> str:
    if run.manifest is None:
        return run.data_problem or "not run yet"
    m = run.manifest
    items = m.items if run.profile is None else run.profile["items"]
    return (
        f"{m.rows_in_words}, {m.rows_kept:,} kept, {sum(m.rows_rejected.values()):,} rejected; "
        f"{m.users:,} users, {items:,} items"
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
    elif "privacy" in training.result:
        said.append(f"users protected by {headline(training.result['privacy'])}")
    return ", ".join(said)


def _ended(stage: str, result: Facts) -> str:
    protocol = result.get("protocol", {})
    if protocol.get("users") is not None:
        users, items = number(protocol["users"]), number(protocol.get("catalogue"))
        ids = protocol.get("ranked_ids", protocol.get("catalogue"))
        shared = "" if ids == protocol.get("catalogue") else f" that share {number(ids)} ids"
        return f"targets of {users} users ranked among {items} items{shared}"
    counts = [f"{result[k]:,} {k}" for k in ("users", "rows") if isinstance(result.get(k), int)]
    return ", ".join(counts) or f"done in {duration(result.get('seconds'))}"
