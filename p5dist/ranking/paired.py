"""Paired comparison of runs on the same examples: differences of metrics with intervals.

Every resample draws users with all their examples, and the same users for all runs (the paired
bootstrap: Efron 1979; Koehn 2004, "Statistical significance tests for machine translation
evaluation"). Where a side has S > 1 runs (seeds of one job), every resample also draws S - 1 of
them: runs and users are drawn independently, as in the pigeonhole bootstrap (Owen 2007), and
drawing S - 1 instead of S makes the variance that comes from the runs unbiased (Rao and Wu 1988).

Users with the same results in all runs are interchangeable, so users are drawn as multinomial
counts of *profiles*, users with equal results; the cost does not grow with the users. With more
than 16,384 profiles, 16,384 random groups of users are drawn instead of users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from p5dist.data.jagged import Array, Bools, Floats, Ints
from p5dist.data.randomness import hashed
from p5dist.ranking.metrics import error_values, rank_values

MOST_GROUPS = 1 << 14
_DRAWS = 1 << 24  # counts of resampled groups held at once


@dataclass(frozen=True)
class Examples:
    """M examples (targets) that T runs were measured on."""

    user: Ints
    """[M] any id of the user"""
    results: Sequence[Array]
    """[T] arrays [M] of int64 or float64 that decide the values of all metrics, such as ranks"""
    measures: Mapping[str, Callable[[int], Floats]]
    """By metric: the values [M] of run t"""
    roots: tuple[str, ...] = ()
    """Metrics that are the square root of the mean."""
    lower_is_better: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A side minus the first side."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    """Two-sided: twice the share of resamples in which the difference is zero or has the other
    sign, counting one more resample of that kind (Davison and Hinkley 1997, 4.2), at most 1."""
    better: float
    """Share of the users whose own mean is better than on the first side."""
    worse: float
    equal: float


@dataclass(frozen=True)
class Side:
    """A metric of the runs of one side."""

    value: float
    """Mean over the runs."""
    low: float | None
    high: float | None
    runs: tuple[float, ...]
    difference: Difference | None
    """None for the first side."""


@dataclass(frozen=True)
class Compared:
    """One metric of all sides."""

    metric: str
    lower_is_better: bool
    examples: int
    users: int
    sides: tuple[Side, ...]


def ranked_examples(user: Ints, ranks: Sequence[Ints], ks: tuple[int, ...]) -> Examples:
    """hr@k, ndcg@k and mrr@k for all k, and accuracy, of T rankings of the same M targets.

    Args:
        user: [M]
        ranks: [T] arrays [M] of ranks from 1; a target that cannot be listed has a rank beyond
            every k.
    """
    beyond = max(ks, default=1) + 1
    gains = rank_values(np.arange(1, beyond + 1), ks)
    clipped = [np.minimum(rank, beyond).astype(np.int64) for rank in ranks]

    def measure(gain: Floats) -> Callable[[int], Floats]:
        return lambda run: gain[clipped[run] - 1]

    return Examples(user, clipped, {name: measure(gain) for name, gain in gains.items()})


def rated_examples(user: Ints, predicted: Sequence[Floats], rating: Floats) -> Examples:
    """rmse and mae of T predictions of the same M ratings.

    Args:
        user: [M]
        predicted: [T] arrays [M]
        rating: [M] without NaN
    """

    def measure(name: str) -> Callable[[int], Floats]:
        return lambda run: error_values(predicted[run], rating)[name]

    names = ("rmse", "mae")
    return Examples(
        user, [*predicted, rating], {name: measure(name) for name in names},
        roots=("rmse",), lower_is_better=names,
    )  # fmt: skip


def compare(
    examples: Examples,
    sides: Sequence[Sequence[int]],
    *,
    resamples: int,
    seed: int,
    matched: bool = False,
) -> list[Compared]:
    """Every metric of every side, and the difference of each side to the first.

    Args:
        sides: the runs of each side.
        resamples: 0 gives no intervals.
        seed: the same seed gives the same intervals.
        matched: run i of every side has the same seed of training: the same runs are drawn for all
            sides, otherwise other runs for each side.
    """
    if not len(examples.user):
        return []
    rng = np.random.default_rng(seed)
    groups = _Groups.of(examples, rng)
    names = list(examples.measures)
    runs = 1 + max(max(side) for side in sides)
    sums = np.zeros((len(groups.size), len(names), runs))
    shares = []
    for m, name in enumerate(names):
        means, ordered = [], sides if len(sides) > 1 else ()
        for side in sides:
            units = np.zeros(len(groups.weight))
            for run in side:
                own = groups.unit_sums(examples.measures[name](run))
                sums[:, m, run] = groups.sums(own)
                units += own / len(side)
            means.append(units / groups.number if ordered else units)
        shares.append([_shares(means[0], other, groups.weight) for other in means[1:]])
    drawn = _resampled(sums, groups, sides, names, examples.roots, resamples, rng, matched)
    total = _finish(groups.times_weight(sums) / groups.examples, names, examples.roots)
    return [
        _compared(examples, groups, name, total[m], sides, shares[m], drawn[:, m])
        for m, name in enumerate(names)
    ]


@dataclass(frozen=True)
class _Groups:
    """Groups of users that are drawn as one. Sums are over *units*: one user of every profile with
    the number of users that have it as its weight, or all users with weight 1."""

    unit: Ints
    """[M'] unit of each example that counts"""
    chosen: Bools | None
    """[M] the examples of units; None: all"""
    weight: Floats
    """[units] users"""
    number: Floats
    """[units] examples"""
    group: Ints
    """[units]"""
    size: Floats
    """[groups] examples of one draw of each group"""
    times: Floats
    """[groups] how often each group is there in the data"""

    @classmethod
    def of(cls, examples: Examples, rng: np.random.Generator) -> _Groups:
        _, of = np.unique(examples.user, return_inverse=True)
        users = int(of.max()) + 1
        key = hashed(*(np.ascontiguousarray(r).view(np.int64) for r in examples.results))
        # Sums of hashes of the examples, modulo 2^64: equal for equal sets of results.
        signature = np.zeros(users, dtype=np.uint64)
        order = np.argsort(of, kind="stable")
        first = np.searchsorted(of[order], np.arange(users))
        with np.errstate(over="ignore"):
            signature = np.add.reduceat(key[order], first)
        _, unit_user, count = np.unique(signature, return_index=True, return_counts=True)
        if len(unit_user) <= MOST_GROUPS:
            place = np.full(users, -1)
            place[unit_user] = np.arange(len(unit_user))
            chosen = place[of] >= 0
            unit, group = place[of][chosen], np.arange(len(unit_user))
            weight = times = count.astype(np.float64)
        else:
            unit, chosen = of, None
            group = rng.permutation(users) % MOST_GROUPS
            weight, times = np.ones(users), np.ones(MOST_GROUPS)
        number = np.bincount(unit, minlength=len(weight)).astype(np.float64)
        size = np.bincount(group, number, len(times)).astype(np.float64)
        return cls(unit, chosen, weight, number, group, size, times)

    @property
    def examples(self) -> float:
        return float(self.times @ self.size)

    @property
    def users(self) -> int:
        return int(self.weight.sum())

    def unit_sums(self, values: Floats) -> Floats:
        """[units] sum over the examples of each unit, of values [M]."""
        mine = values if self.chosen is None else values[self.chosen]
        return np.bincount(self.unit, mine, len(self.weight)).astype(np.float64)

    def sums(self, units: Floats) -> Floats:
        """[groups] sum over the units of each group."""
        return np.bincount(self.group, units, len(self.times)).astype(np.float64)

    def times_weight(self, sums: Floats) -> Floats:
        """The total over the data of sums [groups, …]."""
        total: Floats = np.tensordot(self.times, sums, 1)
        return total


def _resampled(
    sums: Floats,
    groups: _Groups,
    sides: Sequence[Sequence[int]],
    names: list[str],
    roots: tuple[str, ...],
    resamples: int,
    rng: np.random.Generator,
    matched: bool,
) -> Floats:
    """[resamples, metrics, sides] the metrics of resampled users and runs.

    Args:
        sums: [groups, metrics, T]
    """
    number = int(groups.times.sum())
    share = groups.times / number
    flat = sums.reshape(len(share), -1)
    step = max(1, _DRAWS // len(share))
    parts = [np.zeros((0, len(names), len(sides)))]
    for start in range(0, resamples, step):
        n = min(step, resamples - start)
        times = rng.multinomial(number, share, size=n).astype(np.float64)
        totals = (times @ flat) / (times @ groups.size)[:, None]
        values = _finish(totals.reshape(n, *sums.shape[1:]), names, roots)
        part = np.empty((n, len(names), len(sides)))
        drawn: Floats | None = None
        for s, side in enumerate(sides):
            if drawn is None or not matched:
                drawn = _drawn_runs(len(side), n, rng)
            part[:, :, s] = np.einsum("nmt,nt->nm", values[:, :, list(side)], drawn)
        parts.append(part)
    return np.concatenate(parts)


def _drawn_runs(runs: int, resamples: int, rng: np.random.Generator) -> Floats:
    """[resamples, runs] the weight of each run."""
    if runs == 1:
        return np.ones((resamples, 1))
    counts = rng.multinomial(runs - 1, np.full(runs, 1 / runs), size=resamples)
    return np.asarray(counts / (runs - 1), dtype=np.float64)


def _finish(means: Floats, names: list[str], roots: tuple[str, ...]) -> Floats:
    """Means […, metrics, T] → metrics."""
    found: Floats = means.copy()
    for m, name in enumerate(names):
        if name in roots:
            found[..., m, :] = np.sqrt(found[..., m, :])
    return found


def _shares(first: Floats, other: Floats, weight: Floats) -> tuple[float, float, float]:
    """Shares of the users whose mean is higher, lower and equal on the other side."""
    close = np.isclose(first, other, rtol=1e-9, atol=1e-12)
    total = weight.sum()
    higher = weight[~close & (other > first)].sum() / total
    lower = weight[~close & (other < first)].sum() / total
    return float(higher), float(lower), float(weight[close].sum() / total)


def _compared(
    examples: Examples,
    groups: _Groups,
    name: str,
    values: Floats,
    sides: Sequence[Sequence[int]],
    shares: list[tuple[float, float, float]],
    drawn: Floats,
) -> Compared:
    """One metric from its values [T] and the resampled values [resamples, sides]."""
    lower_is_better = name in examples.lower_is_better
    found: list[Side] = []
    for s, side in enumerate(sides):
        mean = float(values[list(side)].mean())
        difference = None
        if s:
            higher, lower, equal = shares[s - 1]
            better, worse = (lower, higher) if lower_is_better else (higher, lower)
            apart = drawn[:, s] - drawn[:, 0]
            difference = Difference(
                mean - found[0].value, *_interval(apart), _p(apart), better, worse, equal
            )
        runs = tuple(float(v) for v in values[list(side)])
        found.append(Side(mean, *_interval(drawn[:, s]), runs, difference))
    return Compared(name, lower_is_better, len(examples.user), groups.users, tuple(found))


def _interval(drawn: Floats) -> tuple[float | None, float | None]:
    """The 95 % percentile interval (Efron 1979); None without resamples."""
    if not len(drawn):
        return None, None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _p(apart: Floats) -> float | None:
    """See :attr:`Difference.p`."""
    if not len(apart):
        return None
    side = min(int((apart <= 0).sum()), int((apart >= 0).sum()))
    return min(1.0, 2 * (side + 1) / (len(apart) + 1))
