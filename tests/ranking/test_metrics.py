"""Metrics by hand; intervals against a plain bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from p5dist.ranking import metrics
from p5dist.ranking.metrics import (
    click_metrics,
    error_values,
    estimate,
    list_labels,
    list_starts,
    list_values,
    rank_values,
)
from p5dist.ranking.topk import MISSED

RANKS = np.array([1, 3, 10, 11])


def value(name: str, ks: tuple[int, ...] = (1, 5, 10)) -> float:
    return estimate(rank_values(RANKS, ks), np.arange(4), resamples=0, seed=1)[name].value


def test_rank_metrics_by_hand() -> None:
    assert value("hr@1") == 1 / 4
    assert value("hr@5") == 2 / 4
    assert value("hr@10") == 3 / 4
    # 1/log2(2) = 1, 1/log2(4) = 0.5, 1/log2(11) = 0.28906
    assert value("ndcg@5") == pytest.approx((1 + 0.5) / 4)
    assert value("ndcg@10") == pytest.approx((1 + 0.5 + 0.2890648) / 4)
    assert value("mrr@5") == pytest.approx((1 + 1 / 3) / 4)
    assert value("mrr@10") == pytest.approx((1 + 1 / 3 + 1 / 10) / 4)
    assert value("accuracy", (10,)) == 1 / 4


def test_errors_by_hand() -> None:
    found = estimate(
        error_values(np.array([3.0, 5.0]), np.array([4.0, 2.0])), np.arange(2), resamples=0, seed=1
    )
    assert found["rmse"].value == pytest.approx(((1 + 9) / 2) ** 0.5)
    assert found["mae"].value == 2.0
    assert found["mae"].low is None and found["mae"].high is None


def plain_bootstrap(values: np.ndarray, user: np.ndarray, resamples: int) -> np.ndarray:
    rng = np.random.default_rng(99)
    of = [values[user == u] for u in np.unique(user)]
    means = []
    for _ in range(resamples):
        drawn = rng.integers(len(of), size=len(of))
        means.append(np.concatenate([of[i] for i in drawn]).mean())
    return np.percentile(means, [2.5, 97.5])


@pytest.mark.parametrize("limit", [1 << 17, 100])
def test_intervals_like_a_plain_bootstrap(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One to five targets a user, and users that differ: resampling targets would be wrong."""
    monkeypatch.setattr(metrics, "_PROFILES", limit)
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(300), rng.integers(1, 6, 300))
    error = rng.normal(rng.normal(0, 2, 300)[user], 0.3)
    found = estimate(error_values(error, np.zeros(len(user))), user, resamples=3000, seed=1)
    for name, values, finish in (("rmse", error**2, np.sqrt), ("mae", np.abs(error), np.array)):
        low, high = finish(plain_bootstrap(values, user, 3000))
        width = high - low
        # Two runs of 3000 resamples differ by a few percent of the width; 100 random groups of
        # three users estimate the spread itself to some 10 %.
        allowed = 0.06 * width if limit > 300 else 0.2 * width
        assert found[name].low == pytest.approx(low, abs=allowed)
        assert found[name].high == pytest.approx(high, abs=allowed)


def test_intervals_depend_on_the_seed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = np.random.default_rng(1).integers(1, 40, 500)

    def intervals(seed: int) -> dict[str, metrics.Estimate]:
        return estimate(rank_values(ranks, (10,)), np.arange(500), resamples=200, seed=seed)

    assert intervals(1) == intervals(1)
    assert intervals(1)["ndcg@10"] != intervals(2)["ndcg@10"]


def test_nothing_to_estimate() -> None:
    assert estimate(rank_values(RANKS[:0], (1,)), RANKS[:0], resamples=10, seed=1) == {}


LABEL = np.array([1.0, 0, 1, 0, 0])
PROBABILITY = np.array([0.8, 0.5, 0.5, 0.1, 0.9])


def test_click_metrics_by_hand() -> None:
    found = click_metrics(LABEL, PROBABILITY, np.arange(5), resamples=0, seed=1)
    # Pairs (yes, no): 0.8 beats 0.5 and 0.1, loses to 0.9; 0.5 ties with 0.5, beats 0.1.
    assert found["auc"].value == pytest.approx((2 + 0.5 + 1) / 6)
    losses = [-np.log(p if y else 1 - p) for y, p in zip(LABEL, PROBABILITY, strict=True)]
    assert found["logloss"].value == pytest.approx(np.mean(losses))
    assert found["calibration"].value == pytest.approx(2.8 / 2)
    assert found["auc"].low is None


def test_click_metrics_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(400) < 0.3).astype(float)
    probability = np.clip(0.3 * label + rng.random(400) * 0.7, 0, 1).round(2)
    user = rng.integers(0, 90, 400)
    found = click_metrics(label, probability, user, resamples=200, seed=1)
    yes, no = probability[label == 1], probability[label == 0]
    won = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    assert found["auc"].value == pytest.approx(won)
    for metric in found.values():
        assert metric.low is not None and metric.high is not None
        assert metric.low < metric.value < metric.high
    # The interval is about ±2 standard errors of Hanley and McNeil (1982).
    a = found["auc"].value
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = a * (1 - a) + (len(yes) - 1) * (q1 - a * a) + (len(no) - 1) * (q2 - a * a)
    error = (variance / len(yes) / len(no)) ** 0.5
    assert found["auc"].high - found["auc"].low == pytest.approx(4 * error, rel=0.35)  # type: ignore[operator]


def test_click_metrics_of_one_kind_of_label() -> None:
    found = click_metrics(np.ones(3), np.full(3, 0.5), np.arange(3), resamples=5, seed=1)
    assert set(found) == {"logloss", "calibration"}
    assert set(click_metrics(np.zeros(3), np.ones(3), np.arange(3), resamples=0, seed=1)) == {
        "logloss"
    }
    assert click_metrics(np.zeros(0), np.zeros(0), np.zeros(0, int), resamples=5, seed=1) == {}


def test_list_metrics_by_hand() -> None:
    """A list with targets at ranks 1, 3 (twice the same item), 6 and a missed one; one without
    hits; one with a single target at rank 2."""
    rank = np.array([3, MISSED, 1, 3, 6, MISSED, 9, 2])
    item = np.array([8, 4, 2, 8, 7, 4, 5, 2])
    list_ = np.array([0, 0, 0, 0, 0, 3, 3, 4])
    found = list_values(rank, item, list_, (1, 3, 10))
    assert found["precision@3"].tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    assert found["recall@3"].tolist() == [2 / 4, 0, 1]  # four distinct items
    assert found["precision@10"].tolist() == [0.3, 0.1, 0.1]
    assert found["map@1"].tolist() == [1 / 4, 0, 0]
    assert found["map@3"].tolist() == pytest.approx([(1 + 2 / 3) / 4, 0, 1 / 2])
    assert found["map@10"].tolist() == pytest.approx([(1 + 2 / 3 + 3 / 6) / 4, 1 / 9 / 2, 1 / 2])
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert found["list_ndcg@3"].tolist() == pytest.approx([1.5 / ideal, 0, 1 / np.log2(3)])
    assert found["list_ndcg@10"][1] == pytest.approx(1 / np.log2(10) / (1 + 1 / np.log2(3)))
    assert list(found) == list(list_labels((1, 3, 10)))
    user = np.array([7, 7, 7, 7, 7, 8, 8, 8])[list_starts(list_)]
    assert user.tolist() == [7, 8, 8]
    estimated = estimate(found, user, resamples=10, seed=1)
    assert estimated["recall@3"].value == pytest.approx(0.5)


def test_lists_of_one_target_are_as_targets() -> None:
    rank = np.random.default_rng(2).integers(1, 30, 50)
    lists = list_values(rank, np.arange(50), np.arange(50), (5, 10))
    targets = rank_values(rank, (5, 10))
    for k in (5, 10):
        assert lists[f"recall@{k}"] == pytest.approx(targets[f"hr@{k}"])
        assert lists[f"list_ndcg@{k}"] == pytest.approx(targets[f"ndcg@{k}"])
        assert lists[f"map@{k}"] == pytest.approx(targets[f"mrr@{k}"])


def test_no_lists() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert list_values(nothing, nothing, nothing, (1,))["map@1"].shape == (0,)
