"""Paired differences: by hand, and against a bootstrap that draws users one by one."""

from __future__ import annotations

import time

import numpy as np
import pytest

from p5dist.data.jagged import Floats, Ints
from p5dist.ranking import paired
from p5dist.ranking.paired import compare, ranked_examples, rated_examples

MISSED = np.iinfo(np.int64).max


def by_metric(found: list[paired.Compared]) -> dict[str, paired.Compared]:
    return {one.metric: one for one in found}


def test_differences_by_hand() -> None:
    """User 1 has two targets, so the means of targets and of users differ."""
    user = np.array([1, 1, 2, 3])
    one = np.array([1, 3, 2, MISSED])
    other = np.array([1, 1, 4, MISSED])
    found = by_metric(
        compare(ranked_examples(user, [one, other], (1, 3)), [[0], [1]], resamples=50, seed=1)
    )
    assert list(found) == ["hr@1", "hr@3", "ndcg@1", "ndcg@3", "mrr@1", "mrr@3", "accuracy"]
    hr = found["hr@3"]  # [1, 1, 1, 0] and [1, 1, 0, 0]
    assert [side.value for side in hr.sides] == [0.75, 0.5]
    first, second = hr.sides
    assert first.difference is None and second.difference is not None
    assert second.difference.value == pytest.approx(-0.25)
    assert (second.difference.better, second.difference.worse, second.difference.equal) == (
        0.0,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    )
    ndcg = found["ndcg@3"].sides
    assert ndcg[0].value == pytest.approx((1 + 1 / 2 + 1 / np.log2(3)) / 4)
    assert ndcg[1].value == pytest.approx((1 + 1) / 4)
    assert hr.examples == 4 and hr.users == 3


def test_a_lower_error_is_better() -> None:
    rating = np.array([4.0, 2.0, 5.0])
    found = by_metric(
        compare(
            rated_examples(
                np.array([1, 2, 2]),
                [np.array([3.0, 2.0, 3.0]), np.array([4.0, 3.0, 3.0])],
                rating,
            ),
            [[0], [1]],
            resamples=0,
            seed=1,
        )
    )
    rmse, mae = found["rmse"], found["mae"]
    assert [s.value for s in rmse.sides] == pytest.approx([(5 / 3) ** 0.5, (5 / 3) ** 0.5])
    assert [s.value for s in mae.sides] == pytest.approx([1.0, 1.0])
    difference = mae.sides[1].difference
    assert difference is not None and mae.lower_is_better
    # User 1: error 1 → 0, better. User 2: mean error (0 + 2) / 2 → (1 + 2) / 2, worse.
    assert (difference.better, difference.worse, difference.equal) == (0.5, 0.5, 0.0)
    assert (difference.low, difference.high, difference.p) == (None, None, None)


def plain_bootstrap(user: Ints, one: Floats, other: Floats, resamples: int) -> Floats:
    """[resamples] the difference of means over the examples of drawn users."""
    rng = np.random.default_rng(99)
    ids = np.unique(user)
    mine = [np.flatnonzero(user == u) for u in ids]
    found = []
    for _ in range(resamples):
        at = np.concatenate([mine[i] for i in rng.integers(0, len(ids), len(ids))])
        found.append(other[at].mean() - one[at].mean())
    return np.array(found)


@pytest.mark.parametrize("most", [paired.MOST_GROUPS, 64], ids=["profiles", "groups"])
def test_intervals_are_those_of_drawing_users(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "MOST_GROUPS", most)
    rng = np.random.default_rng(5)
    user = np.sort(rng.integers(0, 300, 900))
    one, other = rng.integers(1, 12, 900), rng.integers(1, 11, 900)
    found = by_metric(
        compare(ranked_examples(user, [one, other], (5,)), [[0], [1]], resamples=4000, seed=1)
    )["hr@5"].sides[1]
    drawn = plain_bootstrap(user, (one <= 5).astype(float), (other <= 5).astype(float), 4000)
    difference = found.difference
    assert difference is not None and difference.low is not None and difference.high is not None
    width = np.ptp(np.percentile(drawn, [2.5, 97.5]))
    own = difference.high - difference.low
    assert own == pytest.approx(width, rel=0.12 if most == 64 else 0.06)
    assert difference.low == pytest.approx(np.percentile(drawn, 2.5), abs=0.12 * width)


def test_a_planted_difference_is_found_and_none_is_not() -> None:
    rng = np.random.default_rng(0)
    user = np.arange(2000)
    one = rng.integers(1, 30, 2000)
    better = np.where(rng.random(2000) < 0.1, 1, one)
    same = rng.permutation(one)  # another order of the same ranks: no difference of means
    found = by_metric(
        compare(
            ranked_examples(user, [one, better, same], (10,)),
            [[0], [1], [2]],
            resamples=1000,
            seed=1,
        )
    )["ndcg@10"]
    planted, nothing = found.sides[1].difference, found.sides[2].difference
    assert planted is not None and nothing is not None
    assert planted.low is not None and planted.low > 0 and planted.p == pytest.approx(2 / 1001)
    assert planted.worse == 0
    assert nothing.low is not None and nothing.high is not None
    assert nothing.low < 0 < nothing.high and nothing.p is not None and nothing.p > 0.5


def test_equal_runs_have_no_difference_at_all() -> None:
    rank = np.array([1, 2, 3])
    examples = ranked_examples(np.arange(3), [rank, rank], (2,))
    difference = compare(examples, [[0], [1]], resamples=100, seed=1)[0].sides[1].difference
    assert difference == paired.Difference(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0)


def test_the_interval_of_several_runs_has_the_variance_of_the_runs() -> None:
    """The users agree in every run, so only the runs vary: the variance of the mean of S runs is
    s² / S with the unbiased s²."""
    levels = np.array([0.2, 0.5, 0.4, 0.3])
    user = np.arange(1000)
    ranks = [np.where(user < 1000 * level, 1, 9) for level in levels]
    both = compare(ranked_examples(user, ranks, (1,)), [[0, 1, 2, 3]], resamples=20000, seed=2)
    hr = by_metric(both)["hr@1"].sides[0]
    assert hr.runs == pytest.approx(tuple(levels)) and hr.value == pytest.approx(0.35)
    groups = paired._Groups.of(ranked_examples(user, ranks, (1,)), np.random.default_rng(0))
    assert len(groups.times) == 5  # users below 200, 300, 400, 500, and the others
    drawn = paired._drawn_runs(4, 20000, np.random.default_rng(0)) @ levels
    assert drawn.var() == pytest.approx(levels.var(ddof=1) / 4, rel=0.03)
    assert hr.low is not None and hr.low <= np.percentile(drawn, 2.5)


def test_matched_seeds_are_drawn_together() -> None:
    """Seed by seed the second side is better by 0.1, though the seeds differ much."""
    user = np.arange(1000)

    def ranks(level: float) -> Ints:
        return np.where(user < 1000 * level, 1, 9)

    runs = [ranks(level) for level in (0.1, 0.4, 0.7, 0.2, 0.5, 0.8)]
    widths = []
    for matched in (True, False):
        found = compare(
            ranked_examples(user, runs, (1,)), [[0, 1, 2], [3, 4, 5]],
            resamples=2000, seed=1, matched=matched,
        )  # fmt: skip
        difference = by_metric(found)["hr@1"].sides[1].difference
        assert difference is not None and difference.value == pytest.approx(0.1)
        assert difference.low is not None and difference.high is not None
        widths.append(difference.high - difference.low)
    assert widths[0] < 0.05 < 0.3 < widths[1]


def test_the_same_seed_gives_the_same_intervals() -> None:
    rng = np.random.default_rng(0)
    examples = ranked_examples(np.arange(500), list(rng.integers(1, 9, (2, 500))), (3,))
    one, again, other = (compare(examples, [[0], [1]], resamples=99, seed=s) for s in (1, 1, 2))
    assert one == again != other


def test_a_million_targets_take_seconds() -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(250_000), 4)
    ranks = [rng.integers(1, 2000, 1_000_000) for _ in range(2)]
    start = time.perf_counter()
    compare(ranked_examples(user, ranks, (1, 5, 10, 20)), [[0], [1]], resamples=1000, seed=1)
    assert time.perf_counter() - start < 30
