"""Reading logs and rows, curves, gains over baselines, and formats of numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.observe.metrics_log import read_metrics
from p5dist.report import format as fmt
from p5dist.report.pictures import running_mean, thin
from p5dist.report.tables import headlines, metric_tables
from p5dist.report.users import take_rows
from p5dist.storage import Folder


def test_log_after_a_restart_and_a_kill(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 9.0}]
    text = [json.dumps(line) for line in lines]
    text += ['{"step": 4, "lo', json.dumps({"step": 3, "loss": 1.0})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(text) + '\n{"step"')
    log = read_metrics(Folder.open(str(tmp_path)))
    assert [(line["step"], line["loss"]) for line in log] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_take_rows_in_any_order_across_row_groups(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(100, 110))}), tmp_path / "t.parquet", row_group_size=3)
    rows = np.array([9, 0, 5, 5, 2])
    table = take_rows(Folder.open(str(tmp_path / "t.parquet")), rows)
    assert table["a"].to_pylist() == [109, 100, 105, 105, 102]


def test_running_mean() -> None:
    assert running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_thin_keeps_means() -> None:
    assert thin(np.arange(6.0), 3).tolist() == [0.5, 2.5, 4.5]
    assert thin(np.arange(5.0), 2).tolist() == [0.5, 3.0]
    assert thin(np.arange(3.0), 3).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "low", "high", "best", "gain", "verdict"),
    [
        (0.8, 0.7, 0.9, 1.0, 0.2, "good"),  # lower is better, and the baseline is outside
        (1.2, 1.1, 1.3, 1.0, -0.2, "bad"),
        (0.9, 0.7, 1.1, 1.0, 0.1, "muted"),  # the baseline may as well be equal
        (0.9, None, None, 1.0, 0.1, "good"),
    ],
)
def test_gain_where_lower_is_better(
    value: float, low: float | None, high: float | None, best: float, gain: float, verdict: str
) -> None:
    metrics = {"rmse": {"value": value, "low": low, "high": high}}
    baselines = {"global_mean": {"rmse": 1.5}, "user_item_bias": {"rmse": best}}
    (table,) = metric_tables({"metrics": metrics, "baselines": baselines})
    assert table.title == "Rating"
    assert table.rows[0].gain == pytest.approx(gain)
    assert table.rows[0].verdict == verdict


def test_metrics_by_kind_and_family() -> None:
    metrics = {k: {"value": 0.5} for k in ("hr@1", "ndcg@1", "hr@10", "ndcg@10", "rmse")}
    baselines = {"popularity": {"hr@1": 0.1}, "global_mean": {"rmse": 1.0}}
    ranking, rating = metric_tables({"metrics": metrics, "baselines": baselines})
    assert [row.name for row in ranking.rows] == ["HR@1", "HR@10", "NDCG@1", "NDCG@10"]
    assert (ranking.baselines, rating.baselines) == (["popularity"], ["global mean"])
    assert [row.gain for row in ranking.rows] == [pytest.approx(4.0), None, None, None]


def test_a_metric_without_targets_is_no_headline() -> None:
    metrics = {"ndcg@10": {"value": None}, "rmse": {"value": 0.9}}
    tables = metric_tables({"metrics": metrics, "baselines": {"popularity": {"ndcg@10": 0.1}}})
    assert [row.gain for table in tables for row in table.rows] == [None, None]
    assert [headline.row.name for headline in headlines(tables)] == ["RMSE"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (fmt.number(1234567), "1,234,567"),
        (fmt.number(True), "yes"),
        (fmt.number(0.12345), "0.1235"),
        (fmt.number(float("nan")), "\N{EN DASH}"),
        (fmt.metric(0.5), "0.5000"),
        (fmt.percent(0.1234), "12.3 %"),
        (fmt.change(-0.05), "\N{MINUS SIGN}5.0 %"),
        (fmt.duration(0.012), "12 ms"),
        (fmt.duration(59.94), "59.9 s"),
        (fmt.duration(59.97), "1 min 00 s"),
        (fmt.duration(3599.6), "1 h 00 min"),
        (fmt.duration(7500), "2 h 05 min"),
        (fmt.compact(2500), "2.5k"),
        (fmt.compact(0.5), "0.5"),
        (fmt.moment("2026-11-24T04:45:00+00:00"), "2026-11-24 04:45 UTC"),
    ],
)
def test_how_numbers_are_written(written: str, expected: str) -> None:
    assert written == expected
