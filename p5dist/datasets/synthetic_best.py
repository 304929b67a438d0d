"""The best HR@k and NDCG@k that any model can reach on a synthetic log.

Leave-one-out as p5dist evaluates it: the last event of a user with at least three events is the
target, the whole catalogue is ranked. With p the exact distribution of the target given all earlier
events of its user:

    unmasked    HR@k = Σ p of the k likeliest items; NDCG@k = Σ p(item at rank j) / log2(j + 1)
    masked      items of the history are left out, and a target among them is a miss: the same sums
                over the unseen items

These are expectations over the target, so only the choice of the states adds sampling noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from p5dist.data.jagged import Ints
from p5dist.datasets.synthetic_process import (
    FOLLOWERS,
    HOME,
    HOME_SLOPE,
    NEXT,
    NEXT_SLOPE,
    TREND,
    TREND_SLOPE,
    Events,
    Floats,
    Process,
    State,
    power_law_mass,
)

K = 10
_LEAST_EVENTS = 3


def sample(process: Process, events: Events, users: int) -> tuple[State, Ints, Ints, Ints]:
    """The state before the last event of the block's first ``users`` users that have at least three
    events.

    Returns:
        The state of B users, [B] their targets, and the distinct items of their histories as
        [n] index of the user, rising, and [n] item.
    """
    ends = np.cumsum(events.lengths)
    chosen = np.flatnonzero(events.lengths >= _LEAST_EVENTS)[:users]
    target = ends[chosen] - 1
    state = State(
        last=events.item[target - 1],
        home=process.homes(events.first_user + chosen),
        newest=process.newest(events.second[target]),
    )
    known = events.lengths[chosen] - 1
    owner = np.repeat(np.arange(len(chosen)), known)
    row = np.arange(len(owner)) + np.repeat(target - np.cumsum(known), known)
    keys = np.unique(owner * process.items + events.item[row])
    return state, events.item[target], keys // process.items, keys % process.items


def likeliest(
    process: Process, state: State, k: int, owner: Ints | None = None, seen: Ints | None = None
) -> tuple[Ints, Floats]:
    """The k likeliest next items of each state, and their probabilities.

    Only the first items (up to a depth) of the four cases are candidates: no other item is likelier
    than the sum of the cases' masses at the depth (the threshold algorithm of Fagin et al. 2003).
    The depth is doubled until the k-th candidate is at least as likely as this bound.

    Args:
        owner, seen: [n] index of the state, rising, and items that are left out.

    Returns:
        [B, k] items, −1 if fewer than k are left, and [B, k] probabilities by falling value, 0 for
        item −1.
    """
    items = np.full((len(state.last), k), -1, np.int64)
    values = np.zeros((len(state.last), k))
    hidden = np.empty(0, np.int64)
    if owner is not None and seen is not None:
        hidden = np.sort(owner * process.items + seen)
    rows, depth = np.arange(len(state.last)), 4 * k
    while len(rows):
        part = state.take(rows)
        found = _candidates(process, part, depth)
        value = process.probability(part, found)
        repeated = np.zeros(found.shape, np.bool_)
        repeated[:, 1:] = found[:, 1:] == found[:, :-1]
        value[repeated | _contains(hidden, rows[:, None] * process.items + found)] = -1
        best = np.argsort(-value, axis=1, kind="stable")[:, :k]
        best_value = np.take_along_axis(value, best, 1)
        width, none = best.shape[1], best_value < 0
        items[rows, :width] = np.where(none, -1, np.take_along_axis(found, best, 1))
        values[rows, :width] = np.where(none, 0, best_value)
        bound = _bound(process, part, depth)
        rows = rows[(values[rows, -1] < bound) & (depth < process.items)]
        depth *= 2
    return items, values


def best_scores(process: Process, file: int, users: int) -> dict[str, Floats]:
    """``masked`` and ``unmasked`` ``hr@10`` and ``ndcg@10`` of each sampled user of a file.

    Returns:
        [B] by name, such as ``masked hr@10``.
    """
    state, _, owner, seen = sample(process, process.events(file), users)
    gain = 1 / np.log2(np.arange(K) + 2.0)
    _, unmasked = likeliest(process, state, K)
    _, masked = likeliest(process, state, K, owner, seen)
    return {
        f"unmasked hr@{K}": unmasked.sum(1),
        f"unmasked ndcg@{K}": unmasked @ gain,
        f"masked hr@{K}": masked.sum(1),
        f"masked ndcg@{K}": masked @ gain,
    }


def summary(parts: list[dict[str, Floats]]) -> dict[str, Any]:
    """Means over all users with normal 95 % intervals: protocol → metric → value, low, high;
    empty if no user has enough events."""
    found: dict[str, Any] = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        if not len(values):
            return {}
        protocol, metric = name.split()
        mean, width = values.mean(), 1.96 * values.std() / len(values) ** 0.5
        found.setdefault(protocol, {})[metric] = {
            "value": round(float(mean), 6),
            "low": round(float(mean - width), 6),
            "high": round(float(mean + width), 6),
        }
    return found


def _candidates(process: Process, state: State, depth: int) -> Ints:
    """[B, m] sorted: the followers, and the first ``depth`` items of the other cases."""
    rank = np.arange(min(depth, process.items))
    in_cluster = rank[: -(-process.items // process.clusters)] * process.clusters
    followers = [process.followers(state.last, which) for which in range(len(FOLLOWERS))]
    after = (state.last + 1) % process.clusters
    found = np.concatenate(
        [
            np.stack(followers, 1),
            after[:, None] + in_cluster,
            state.home[:, None] + in_cluster,
            (state.newest[:, None] - rank) % process.items,
        ],
        axis=1,
    )
    # A cluster may have one item less than others: its first item then replaces the missing item.
    return np.sort(np.where(found < process.items, found, found % process.clusters), axis=1)


def _bound(process: Process, state: State, depth: int) -> Floats:
    """[B] upper bound of the probability of an item outside the candidates."""
    sizes = process.sizes((state.last + 1) % process.clusters), process.sizes(state.home)
    at = np.asarray(depth)
    return (
        NEXT * power_law_mass(at, NEXT_SLOPE, sizes[0])
        + HOME * power_law_mass(at, HOME_SLOPE, sizes[1])
        + TREND * power_law_mass(at, TREND_SLOPE, process.items)
    )


def _contains(rising: Ints, keys: Ints) -> Any:
    """Whether each key is in ``rising``."""
    if not len(rising):
        return np.zeros(keys.shape, np.bool_)
    found = np.minimum(np.searchsorted(rising, keys), len(rising) - 1)
    return rising[found] == keys
