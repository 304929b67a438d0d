"""Metrics by segment: what is behind a mean over all targets.

A family, such as the length of the history, divides targets (or lists) into segments. A target may
be in several segments of a family (an item with two genres) or in none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from p5dist.data.jagged import Bools, Floats, Ints, distinct, ranges
from p5dist.ranking.metrics import Estimate

LENGTHS = (1, 5, 10, 20, 50)
"""Shortest history of each segment."""
HEAD, TAIL = 20, 80
"""Percent of the training interactions at which the head ends and the tail begins."""
TIMES = 8
"""Largest number of segments by time."""
VALUES = 20
"""Largest number of segments by the values of an attribute, beside the two for the rest."""
OTHER, NO_VALUE = "other values", "no value"
PARTS = ("head", "middle", "tail")
"""Of the catalogue, by popularity."""
_NORMAL = 1.959963984540054  # the 97.5 % quantile


@dataclass(frozen=True)
class Segments:
    """One family."""

    family: str
    labels: tuple[str, ...]
    """In the order in which they are shown."""
    target: Ints
    """[P] index of a target in the segment ``code[P]``"""
    code: Ints
    """[P] index of the label"""


@dataclass(frozen=True)
class Segment:
    """The metrics of the targets of one segment."""

    label: str
    targets: int
    users: int
    metrics: dict[str, Estimate]
    """Means over the targets; without interval if all are of one user."""


def segment_metrics(
    values: dict[str, Floats],
    user: Ints,
    segments: Segments,
    *,
    roots: Collection[str] = ("rmse",),
) -> list[Segment]:
    """The means of each segment that has a target, with 95 % intervals.

    The intervals are those of a ratio of sums over users (Cochran 1977, chapter 6): with n_u
    targets of user u and the sum s_u of their values, the variance of the mean m is U / (U − 1) ·
    Σ_u (s_u − m · n_u)² / (Σ_u n_u)². They cost one pass over the targets; a bootstrap of every
    segment would cost more than the ranking. They end at 0, and at 1 if no value is larger.

    Args:
        values: [M] by metric, at least 0, of targets or of lists, as of :func:`.metrics.estimate`.
        user: [M]
        roots: metrics that are the square root of the mean.
    """
    size = len(segments.labels)
    targets = np.bincount(segments.code, minlength=size)
    different, number = np.unique(user, return_inverse=True)
    key = segments.code * len(different) + number[segments.target]
    pairs = distinct(key)  # of segment and user
    pair = np.searchsorted(pairs, key)
    of, each = pairs // max(len(different), 1), np.bincount(pair, minlength=len(pairs))
    users = np.bincount(of, minlength=size)
    factor = users / np.maximum(users - 1, 1) / np.maximum(targets, 1) ** 2
    found: dict[str, list[Estimate]] = {}
    for name, value in values.items():
        total = np.bincount(pair, value[segments.target], len(pairs))
        mean = np.bincount(of, total, size) / np.maximum(targets, 1)
        variance = np.bincount(of, np.square(total - mean[of] * each), size) * factor
        half = _NORMAL * np.sqrt(variance)
        low, high = np.maximum(mean - half, 0.0), mean + half
        if value.max(initial=0) <= 1:
            high = np.minimum(high, 1.0)
        if name in roots:
            mean, low, high = np.sqrt(mean), np.sqrt(low), np.sqrt(high)
        found[name] = [
            Estimate(float(m), float(a), float(b)) if u > 1 else Estimate(float(m))
            for m, a, b, u in zip(mean, low, high, users, strict=True)
        ]
    return [
        Segment(
            segments.labels[i], int(targets[i]), int(users[i]),
            {name: estimates[i] for name, estimates in found.items()},
        )
        for i in np.flatnonzero(targets).tolist()
    ]  # fmt: skip


def by_repetition(repeated: Bools) -> Segments:
    """By whether the user had the item before.

    Args:
        repeated: [M]
    """
    return _each("item", ("new to the user", "had before"), repeated.astype(np.int64))


def by_history_length(length: Ints) -> Segments:
    """By the number of known interactions before the target: 1–4, 5–9, 10–19, 20–49, 50+.

    Args:
        length: [M] of the whole history, not only of what the encoder sees.
    """
    ends = [f"–{after - 1}" for after in LENGTHS[1:]] + ["+"]
    labels = tuple(f"{start}{end}" for start, end in zip(LENGTHS, ends, strict=True))
    return _each("history length", labels, np.searchsorted(LENGTHS, length, side="right") - 1)


def by_popularity(item: Ints, count: Ints) -> Segments:
    """By the part of the catalogue that the target's item is in, see :func:`popularity_part`.

    Args:
        item: [M] ids.
        count: [L] training interactions of each id 1…L.
    """
    return _each("item popularity", PARTS, popularity_part(count)[item - 1])


def popularity_part(count: Ints) -> Ints:
    """[L] head (0), middle (1) or tail (2): with the items by falling count (of equal counts the
    lower id first), the head are the items that make up the first 20 % of the training
    interactions, the tail those of the last 20 %, the middle the 60 % between (Abdollahpouri et al.
    2021, User-centered Evaluation of Popularity Bias in Recommender Systems).

    An item over a border belongs to the side on which its interactions begin. Items without
    training interactions are in the tail.

    Args:
        count: [L] training interactions of each id 1…L.
    """
    order = np.argsort(-count, kind="stable")
    before = np.empty(len(count), dtype=np.int64)
    before[order] = np.cumsum(count[order]) - count[order]
    edges = np.array([HEAD, TAIL]) * count.sum()
    return np.where(count > 0, np.searchsorted(edges, 100 * before, side="right"), 2)


def by_training(item: Ints, count: Ints) -> Segments:
    """By whether the target's item has a training interaction (warm) or none (cold).

    Args:
        item, count: as of :func:`by_popularity`.
    """
    return _each("item in training", ("warm", "cold"), (count[item - 1] == 0).astype(np.int64))


def by_attribute(
    name: str, item: Ints, offsets: Ints, values: Ints, labels: Sequence[str]
) -> Segments:
    """By the values of an attribute of the target's item: the values with the most targets, all
    others together, and the items without value. An item with several values is in several
    segments.

    Args:
        name: of the attribute.
        item: [M] ids.
        offsets, values: of one attribute of :class:`p5dist.data.attributes.Attributes`.
        labels: of the values 1, 2, …
    """
    lengths = offsets[item + 1] - offsets[item]
    target = np.repeat(np.arange(len(item)), lengths)
    value = values[ranges(offsets[item], lengths)]
    number = np.bincount(value, minlength=len(labels) + 1)
    order = np.argsort(-number, kind="stable")
    shown = order[: min(VALUES, int((number > 0).sum()))]
    code_of = np.full(len(number), len(shown))
    code_of[shown] = np.arange(len(shown))
    without = np.flatnonzero(lengths == 0)
    names = (*(labels[v - 1] for v in shown.tolist()), OTHER, NO_VALUE)
    pairs = np.append(target, without) * len(names)
    pairs += np.append(code_of[value], np.full(len(without), len(names) - 1))
    # An item with two of the other values is there once.
    return Segments(name, names, *np.divmod(distinct(pairs), len(names)))


def by_time(timestamp: Ints) -> Segments:
    """By the time of the target (UTC): days, months, quarters, years, or as many years together as
    needed — the finest that divides the targets into at most eight segments.

    Args:
        timestamp: [M] microseconds since 1970.
    """
    times = timestamp.astype("datetime64[us]")
    month = times.astype("datetime64[M]").astype(np.int64)
    day = times.astype("datetime64[D]").astype(np.int64)
    year = month // 12 + 1970
    years = {f"{n} years": year // n for n in (1, 2, 5, 10, 20, 50, 100, 1000)}
    units = {"day": day, "month": month, "quarter": month // 3, **years}
    unit = next((u for u, n in units.items() if len(np.unique(n)) <= TIMES), "1000 years")
    found, code = np.unique(units[unit], return_inverse=True)
    return _each("time", tuple(_time_label(unit, n) for n in found.tolist()), code)


def _time_label(unit: str, number: int) -> str:
    """Days, months and quarters are counted from 1970, years from 0."""
    if unit == "day":
        return str(np.datetime64(number, "D"))
    if unit == "month":
        return str(np.datetime64(number, "M"))
    if unit == "quarter":
        return f"{1970 + number // 4} Q{number % 4 + 1}"
    together = int(unit.split()[0])
    first = number * together
    return str(first) if together == 1 else f"{first}–{first + together - 1}"


def _each(family: str, labels: tuple[str, ...], code: Ints) -> Segments:
    """Each target in one segment; in none if its code is negative."""
    target = np.flatnonzero(code >= 0)
    return Segments(family, labels, target, code[target])
