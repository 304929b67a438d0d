"""Statistics of the data for the report: counts and distributions, never rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from p5dist.config.prepare import Prepare
from p5dist.data import columns as c
from p5dist.data.jagged import Array, Bools, Ints
from p5dist.prepare.arrays import merge_counts
from p5dist.prepare.histories import ShardHistories
from p5dist.prepare.interactions import Names, leaked, tied_rising
from p5dist.prepare.rejects import forms_of
from p5dist.prepare.vocabulary import Vocabulary

Counts = tuple[Array, Ints]

_DAY = 86_400 * c.SECOND
_LENGTH_BINS = 24
_CURVE_POINTS = 200
_TIME_POINTS = 400
_RATING_VALUES = 100
_MUCH = 0.2  # a share of the log that one user, item or reason should not have
# Days since 1970 of the first day of these years.
_YEAR_1, _YEAR_1980, _YEAR_2100, _YEAR_9999 = -719_162, 3_652, 47_482, 2_932_532


@dataclass(frozen=True)
class ShardProfile:
    """Sums over one shard, merged over all shards."""

    lengths: Counts
    """Histories by length."""
    days: Counts
    """Interactions by days since 1970."""
    last_time: int
    ratings: Counts
    """Interactions by rating; interactions without a rating are left out."""
    splits: Ints
    """[3] interactions by split code."""
    users_by_split: Ints
    """[3] users with an interaction of each split code."""
    train_ratings: tuple[int, float, float, float]
    """Number, sum, smallest and largest of the ratings that train."""
    targets: tuple[int, int]
    """Training interactions after another one in their history, and how many have a rating."""
    targets_by_event: dict[str, int]
    tied: int
    """Interactions at the time of the one before."""
    tied_rising: int
    leaked: int
    heaviest: tuple[int, str]
    """Interactions and external id of the user with the most."""


def profile_shard(histories: ShardHistories, names: Names, rank: Array) -> ShardProfile:
    """Sums over the histories of one shard (at least one).

    Args:
        names: the values of the codes of the shard.
        rank: position of every item of the shard in the order of external ids.
    """
    rows, train = histories.rows, histories.split == c.TRAIN
    rating = rows.rating if rows.rating is not None else np.zeros(0, np.float32)
    rated = ~np.isnan(rating)
    trains = rating[rated & train].astype(np.float64) if len(rating) else rating.astype(np.float64)
    target = histories.targets()
    per_user = np.bincount(rows.user)
    heaviest = int(np.argmax(per_user))
    return ShardProfile(
        lengths=_counts(histories.lengths),
        days=_counts(rows.time // _DAY),
        last_time=int(rows.time.max()),
        ratings=_counts(rating[rated]),
        splits=np.bincount(histories.split, minlength=3).astype(np.int64),
        users_by_split=np.array(
            [len(np.unique(rows.user[histories.split == code])) for code in range(3)]
        ),
        train_ratings=(
            len(trains),
            float(trains.sum()),
            float(trains.min(initial=np.inf)),
            float(trains.max(initial=-np.inf)),
        ),
        targets=(int(target.sum()), int((target & rated).sum()) if len(rating) else 0),
        targets_by_event=_by_event(histories, target, names),
        tied=int(rows.tied().sum()),
        tied_rising=tied_rising(rows, rank),
        leaked=leaked(rows),
        heaviest=(int(per_user[heaviest]), str(names.users[heaviest].as_py())),
    )


def build_profile(
    shards: Sequence[ShardProfile],
    items: Vocabulary,
    users: int,
    prepare: Prepare,
    rejected: dict[str, int],
    warnings: list[str],
    *,
    earlier: int = 0,
) -> dict[str, Any]:
    """profile.json; ``warnings`` follow the warnings about the log itself.

    Args:
        earlier: interactions that come from the runs that the log continues.
    """
    lengths, by_length = merge_counts(s.lengths for s in shards)
    histories, interactions = int(by_length.sum()), int((lengths * by_length).sum())
    counts = np.sort(items.count[items.named])[::-1]
    number = len(counts) + items.unnamed
    days, by_day = merge_counts(s.days for s in shards)
    timed = prepare.source.columns.timestamp is not None
    first, last = int(days[0]), int(days[-1])
    if timed and not (first >= _YEAR_1 and _YEAR_1980 <= last < _YEAR_2100):
        warnings = [_odd_times(first, last), *warnings]
        timed = first >= _YEAR_1 and last < _YEAR_9999
    return {
        "interactions": interactions,
        "users": users,
        "histories": histories,
        "items": number,
        "density": interactions / (users * number),
        "rows_in": interactions + sum(rejected.values()) - earlier,
        "rows_rejected": rejected,
        "lengths": _length_histogram(lengths, by_length),
        "item_counts": _popularity(counts),
        "per_day": _per_day((days, by_day)) if timed else {"day": [], "count": []},
        "ratings": _rating_histogram(merge_counts(s.ratings for s in shards)),
        "tied_share": sum(s.tied for s in shards) / interactions,
        "warnings": _warnings(shards, items, prepare, interactions, rejected) + warnings,
    }  # fmt: skip


def _warnings(
    shards: Sequence[ShardProfile],
    items: Vocabulary,
    prepare: Prepare,
    interactions: int,
    rejected: dict[str, int],
) -> list[str]:
    found = []
    tied = sum(s.tied for s in shards)
    rising = sum(s.tied_rising for s in shards)
    if prepare.ties == "log" and tied > 0.01 * interactions and rising > 0.6 * tied:
        found.append(
            f"{tied / interactions:.0%} of the interactions have the time of the one before, and "
            f"in {rising / tied:.0%} of these the item id rises: the order within one time may "
            "come from sorting by id, which a model can learn; consider prepare.ties: shuffled"
        )
    length, user = max((s.heaviest for s in shards), key=lambda h: (h[0], h[1]))
    if length > _MUCH * interactions:
        found.append(f"user '{user}' has {length / interactions:.0%} of all interactions")
    train = int(items.count.sum())
    if len(items) > 1 and (most := int(items.count.max(initial=0))) > _MUCH * train:
        item = items.external[int(np.argmax(items.count))].as_py()
        found.append(f"item '{item}' has {most / train:.0%} of the training interactions")
    rows = interactions + sum(rejected.values())
    found += [
        f"{n / rows:.0%} of the rows are dropped as {reason}: "
        + (forms_of(reason, prepare.source) or "see prepare.clean")
        for reason, n in rejected.items()
        if n > _MUCH * rows
    ]
    if leaked := sum(s.leaked for s in shards):
        found.append(
            f"{leaked:,} (user, item, time) of the files that validate or test are in others too: "
            "a leak, unless an item can be taken twice at one time"
        )
    validation, test = (int(sum(s.splits[code] for s in shards)) for code in (c.VALIDATION, c.TEST))
    if not test:
        found.append("no interaction is in the test split: nothing can be evaluated on it")
    elif not validation and (prepare.split.kind == "leave_one_out" or prepare.split.validation):
        found.append("no interaction is in the validation split")
    return found


def _odd_times(first: int, last: int) -> str:
    years = " to ".join(str(int(1970 + day / 365.2425)) for day in (first, last))
    return (
        f"the times go from the year {years}: check prepare.source.timestamp_unit and "
        "prepare.clean.time_range"
    )


def _by_event(histories: ShardHistories, target: Bools, names: Names) -> dict[str, int]:
    """Number of targets by event, if the log has events."""
    if c.EVENT not in names.coded:
        return {}
    known = names.coded[c.EVENT]
    counts = np.bincount(histories.rows.coded[c.EVENT][target], minlength=len(known))
    return {event: int(n) for event, n in zip(known.to_pylist(), counts, strict=True) if n}


def _counts(values: Array) -> Counts:
    if len(values) and values.dtype.kind == "i":
        low, high = int(values.min()), int(values.max())
        if high - low < len(values):  # many times faster than sorting
            counts = np.bincount(values - low)
            there = np.flatnonzero(counts)
            return there + low, counts[there]
    distinct, counts = np.unique(values, return_counts=True)
    return distinct, counts.astype(np.int64)


def _length_histogram(lengths: Ints, histories: Ints) -> dict[str, list[int]]:
    edges = np.unique(np.geomspace(1, lengths.max() + 1, _LENGTH_BINS + 1).round().astype(int))
    counts, _ = np.histogram(lengths, bins=edges, weights=histories)
    return {"edges": edges.tolist(), "counts": counts.astype(int).tolist()}


def _popularity(counts: Ints) -> dict[str, list[int]]:
    """Training interactions by rank, from falling counts."""
    ranks = np.unique(np.geomspace(1, len(counts), _CURVE_POINTS).round().astype(int))
    return {"rank": ranks.tolist(), "count": counts[ranks - 1].tolist()}


def _per_day(counts: Counts) -> dict[str, list[Any]]:
    """By day, week (from Monday) or month, whichever is the finest with at most 400 points; where
    even months are more, by periods of several months."""
    days, number = counts
    day, week = days, (days + 3) // 7 * 7 - 3  # day 0 of 1970 is a Thursday
    month = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    several = -(-(int(np.ptp(month)) + 1) // (_TIME_POINTS - 1))
    coarse = (month // several * several).astype("datetime64[M]").astype("datetime64[D]")
    for start in (day, week, coarse.astype(np.int64)):
        starts, total = merge_counts([(start, number)])
        if len(starts) <= _TIME_POINTS:
            break
    return {"day": np.datetime_as_string(starts.astype("datetime64[D]")).tolist(),
            "count": total.tolist()}  # fmt: skip


def _rating_histogram(counts: Counts) -> dict[str, list[float]]:
    """By value; where there are more than 100 values, 50 bins by their middles."""
    values, number = counts
    if len(values) > _RATING_VALUES:
        number, edges = np.histogram(values, bins=50, weights=number)
        values = (edges[1:] + edges[:-1]) / 2
    return {"value": values.astype(float).tolist(), "count": number.astype(int).tolist()}
