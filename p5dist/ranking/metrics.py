"""Metrics of ranked targets, predicted ratings and predicted clicks, and their confidence
intervals.

With one target per list (N = 1 relevant item) the usual definitions become, for a target of rank r
(from 1): hr@k = recall@k = [r ≤ k]; ndcg@k = [r ≤ k] / log2(r + 1) (Järvelin and Kekäläinen 2002);
mrr@k = [r ≤ k] / r; accuracy = [r = 1]. Every metric is a mean over targets, so a user with several
targets counts several times. :func:`list_values` has the metrics of whole lists with several
targets; :mod:`.list_metrics` those of the listed items.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p5dist.data.jagged import Ints

Floats = npt.NDArray[np.float64]

_OF_LISTS = {
    "precision": "precision", "recall": "recall", "map": "MAP", "list_ndcg": "NDCG of lists",
}  # fmt: skip
_EPSILON = 1e-7  # log loss stays finite where a probability is 0 or 1
_EXAMPLES = 1 << 29  # examples of all resamples together
_PROFILES = 1 << 17
_DRAWS = 1 << 24  # counts of resampled profiles held at once


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval; None without interval."""

    value: float
    low: float | None = None
    high: float | None = None


def ranking_labels(ks: tuple[int, ...]) -> dict[str, str]:
    """Display name of each metric of :func:`rank_values`; higher is better for all."""
    names = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR"}
    labels = {f"{name}@{k}": f"{label}@{k}" for name, label in names.items() for k in ks}
    return labels | {"accuracy": "accuracy"}


def rank_values(rank: Ints, ks: tuple[int, ...]) -> dict[str, Floats]:
    """Each metric's value for each target: hr@k, ndcg@k, mrr@k for all k, and accuracy.

    Args:
        rank: [M] from 1; a target that cannot be listed has a rank beyond every k.

    Returns:
        [M] by metric.
    """
    values: dict[str, Floats] = {}
    gains = {"hr": np.ones(len(rank)), "ndcg": 1 / np.log2(rank + 1.0), "mrr": 1.0 / rank}
    for name, gain in gains.items():
        for k in ks:
            values[f"{name}@{k}"] = np.where(rank <= k, gain, 0.0)
    values["accuracy"] = (rank == 1).astype(np.float64)
    return values


def list_values(rank: Ints, item: Ints, list_: Ints, ks: tuple[int, ...]) -> dict[str, Floats]:
    """Each metric's value for each list: precision@k, recall@k, map@k, list_ndcg@k for all k.

    With R distinct target items in a list and the hits those of rank at most k: precision = hits /
    k, recall = hits / R, map = Σ over hits (hits up to the hit's rank / its rank) / R, list_ndcg =
    Σ over hits 1 / log2(rank + 1) over the largest possible sum, that of the ranks 1…min(R, k)
    (Manning, Raghavan and Schütze 2008, chapter 8; Järvelin and Kekäläinen 2002). They are
    Precision, Recall, MAP and NDCG(divide_by_achievable=True) of RecTools, which counts an item
    that is a target twice as two; here it counts once.

    Args:
        rank: [M] from 1; a target that cannot be listed has a rank beyond every k, and is missed.
        item: [M] target items; the targets of one item in a list have equal ranks.
        list_: [M] index of the list, rising.

    Returns:
        [lists] by metric, in the order of the lists that have a target; their first targets are at
        :func:`list_starts`.
    """
    order = np.lexsort((item, rank, list_))
    rank, item, of = rank[order], item[order], list_[order]
    first = np.append(True, (of[1:] != of[:-1]) | (item[1:] != item[:-1]))[: len(of)]
    rank, of = rank[first], of[first]
    starts = list_starts(of)
    wanted = np.diff(np.append(starts, len(of)))  # R
    of = np.repeat(np.arange(len(starts)), wanted)
    hits_so_far = np.arange(1, len(of) + 1) - starts[of]
    discount = 1 / np.log2(np.arange(2.0, max(ks) + 2))
    ideal = np.append(0.0, np.cumsum(discount))
    values: dict[str, Floats] = {}
    sums = {"map": hits_so_far / rank, "list_ndcg": 1 / np.log2(rank + 1.0)}
    for k in ks:
        hit = rank <= k
        hits = np.bincount(of[hit], minlength=len(starts))
        found, gain = (np.bincount(of[hit], v[hit], len(starts)) for v in sums.values())
        values[f"precision@{k}"] = hits / k
        values[f"recall@{k}"] = hits / wanted
        values[f"map@{k}"] = found / wanted
        values[f"list_ndcg@{k}"] = gain / ideal[np.minimum(wanted, k)]
    return {f"{name}@{k}": values[f"{name}@{k}"] for name in _OF_LISTS for k in ks}


def list_labels(ks: tuple[int, ...]) -> dict[str, str]:
    """Display name of each metric of :func:`list_values`; higher is better for all."""
    return {f"{name}@{k}": f"{label}@{k}" for name, label in _OF_LISTS.items() for k in ks}


def list_starts(list_: Ints) -> Ints:
    """[lists] index of the first target of each list; ``user[list_starts(list_)]`` are the users of
    the lists.

    Args:
        list_: [M] index of the list, rising.
    """
    return np.flatnonzero(np.diff(list_, prepend=-1))


def error_values(predicted: Floats, rating: Floats) -> dict[str, Floats]:
    """Squared error (as ``rmse``) and absolute error (``mae``) of each prediction."""
    error = predicted - rating
    return {"rmse": error**2, "mae": np.abs(error)}


def estimate(
    values: dict[str, Floats],
    user: Ints,
    *,
    resamples: int,
    seed: int,
    roots: Collection[str] = ("rmse",),
) -> dict[str, Estimate]:
    """Means over targets with 95 % percentile intervals (Efron 1979) from resampling the users,
    each with all targets of the user.

    Drawing U users with replacement is the same as drawing multinomial counts of the distinct
    contributions of a user; ranks give few distinct contributions, so the cost does not grow with
    the users. With more than 131,072 distinct contributions, 131,072 random groups of users are
    resampled instead of users.

    Args:
        values: [M] by metric, see :func:`rank_values` and :func:`error_values`.
        user: [M]
        resamples: 0 gives no intervals.
        roots: metrics that are the square root of the mean.
    """
    if not len(user):
        return {}

    def finish(name: str, mean: float) -> float:
        return float(mean**0.5 if name in roots else mean)

    means = {name: finish(name, v.mean()) for name, v in values.items()}
    if not resamples:
        return {name: Estimate(value) for name, value in means.items()}
    rng = np.random.default_rng(seed)
    profiles, count = _profiles(np.stack(list(values.values()), 1), user, rng)
    share = count / count.sum()
    step = max(1, _DRAWS // len(count))
    drawn = []
    for start in range(0, resamples, step):
        times = rng.multinomial(count.sum(), share, size=min(step, resamples - start))
        totals = times @ profiles
        drawn.append(totals[:, :-1] / totals[:, -1:])
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    return {
        name: Estimate(means[name], finish(name, a), finish(name, b))
        for name, a, b in zip(values, low, high, strict=True)
    }


def click_metrics(
    label: Floats, probability: Floats, user: Ints, *, resamples: int, seed: int
) -> dict[str, Estimate]:
    """auc: the share of pairs of a yes and a no in which the yes has the higher probability, ties
    count half; logloss: the mean of -log of the probability of the true label; calibration: the sum
    of the probabilities over the number of yes, ideally 1. auc is left out if all labels are equal,
    calibration if there is no yes.

    Args:
        label, probability, user: [E]
        resamples: number of resamples of the users for 95 % percentile intervals, reduced for very
            many examples; 0: no intervals.
    """
    if not len(label):
        return {}
    order = np.argsort(probability, kind="stable")
    label, probability, user = label[order], probability[order], user[order]
    clipped = np.clip(probability, _EPSILON, 1 - _EPSILON)
    loss = -np.where(label == 1, np.log(clipped), np.log1p(-clipped))
    tie = np.concatenate([[0], np.cumsum(np.diff(probability) > 0)])

    def measure(weight: Floats) -> tuple[float, float, float]:
        yes = np.bincount(tie, weight * label)
        no = np.bincount(tie, weight * (1 - label))
        pairs = yes.sum() * no.sum()
        won = yes @ (np.cumsum(no) - no / 2)
        return (
            won / pairs if pairs else np.nan,
            weight @ loss / weight.sum(),
            weight @ probability / yes.sum() if yes.sum() else np.nan,
        )

    _, of = np.unique(user, return_inverse=True)
    users = int(of.max()) + 1
    rng = np.random.default_rng(seed)
    # The cost of a resample grows with the examples: fewer resamples for very many examples.
    resamples = min(resamples, max(_EXAMPLES // len(label), 50)) if resamples else 0
    drawn = [
        measure(rng.multinomial(users, np.full(users, 1 / users))[of].astype(np.float64))
        for _ in range(resamples)
    ]
    values = measure(np.ones(len(label)))
    found: dict[str, Estimate] = {}
    for i, name in enumerate(("auc", "logloss", "calibration")):
        if np.isnan(values[i]):
            continue
        if not drawn:
            found[name] = Estimate(float(values[i]))
            continue
        low, high = np.nanpercentile([d[i] for d in drawn], [2.5, 97.5])
        found[name] = Estimate(float(values[i]), float(low), float(high))
    return found


def _profiles(values: Floats, user: Ints, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """Distinct rows (sums of a user's values…, number of the user's targets), and the number of
    users with each row."""
    _, of = np.unique(user, return_inverse=True)
    users = int(of.max()) + 1
    columns = [*values.T, np.ones(len(of))]
    sums = _sums(columns, of, users)
    profiles, count = np.unique(sums, axis=0, return_counts=True)
    if len(profiles) <= _PROFILES:
        return profiles, count.astype(np.int64)
    group = rng.permutation(users) % _PROFILES
    return _sums(list(sums.T), group, _PROFILES), np.ones(_PROFILES, dtype=np.int64)


def _sums(columns: list[Floats], of: Ints, groups: int) -> Floats:
    """[groups, columns] sum of each column over the rows of each group."""
    return np.stack([np.bincount(of, column, groups) for column in columns], 1).astype(np.float64)
