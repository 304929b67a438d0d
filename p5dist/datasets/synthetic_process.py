"""The process behind synthetic logs: formulas, draws, and the exact probability of the next item.

I items 0…I−1, K clusters, U users. Item i belongs to cluster i mod K, at place i div K.
All draws of places follow a power law of slope s over n places, the integral form of Zipf's law,
whose mass and inverse distribution have closed forms (no table, whatever the catalogue):

    P(r; s, n) = ∫ from r+1 to r+2 of x^−s dx / ∫ from 1 to n+1 of x^−s dx,    r = 0 … n−1

    user u      has a home cluster h(u) ~ P(·; 0.7, K), drawn by a hash of u
    activity    the number of events is 1 + a share of the remaining events, in proportion to a
                log-normal weight (σ = 1); their times are uniform over the days of the log
    item l      has four followers in its own cluster, drawn by a hash of l from P(·; 1.1, ·)
    trend       the newest item of day d is o(d) = d mod I; item i has age (o(d) − i) mod I: every
                day one item enters at the top and all others move down by one

The next item of user u after item l of cluster k, on day d, is

    with 0.25   a follower of l: the four followers with 0.4, 0.3, 0.2, 0.1
    with 0.20   the item of cluster (k + 1) mod K at place r ~ P(·; 1.2, ·)
    with 0.35   the item of the home cluster h(u) at place r ~ P(·; 0.9, ·)
    with 0.20   the item of age r ~ P(·; 1.1, I)

and a user's first item comes from the last two cases, in their proportion. So the next item depends
only on the last item, the user and the day: its distribution given the whole history is the sum of
the four cases. No model can do better than this distribution, which needs h(u) and o(d); a model
that must infer h(u) and o(d) from histories does at most as well.

In the log, user and item ids are permuted by (a·i + b) mod n and count from 1, so that ids do not
reveal popularity.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from p5dist.data.columns import ITEM_ID, TIMESTAMP, USER_ID
from p5dist.data.jagged import Bools, Ints
from p5dist.data.randomness import GOLDEN, UInts, splitmix

Floats = npt.NDArray[np.float64]

START = 1_704_067_200
"""Seconds of the first day, 2024-01-01."""
DAY = 86_400

FOLLOW, NEXT, HOME, TREND = 0.25, 0.20, 0.35, 0.20
FOLLOWERS = np.array([0.4, 0.3, 0.2, 0.1])
HOME_CLUSTER_SLOPE, FOLLOWER_SLOPE, NEXT_SLOPE, HOME_SLOPE, TREND_SLOPE = 0.7, 1.1, 1.2, 0.9, 1.1
ACTIVITY_SIGMA = 1.0

_MARKOV = FOLLOW + NEXT
_ROW_BITS = 31


def power_law_place(u: Floats, slope: float, n: Ints | int) -> Ints:
    """The place r at quantile ``u`` in [0, 1) of the power law over ``n`` places."""
    power = 1 - slope
    x = (1 + u * ((np.asarray(n) + 1.0) ** power - 1)) ** (1 / power)
    return np.asarray(np.minimum(x.astype(np.int64) - 1, np.asarray(n) - 1))


def power_law_mass(r: Ints, slope: float, n: Ints | int) -> Floats:
    """P(r) of the power law over ``n`` places; 0 for r ≥ n."""
    power, x = 1 - slope, np.asarray(r) + 1.0
    mass: Floats = ((x + 1) ** power - x**power) / ((np.asarray(n) + 1.0) ** power - 1)
    return np.where(r < n, mass, 0.0)


@dataclass(frozen=True)
class State:
    """The state of B users, which the distribution of their next items depends on."""

    last: Ints
    """[B] the last item"""
    home: Ints
    """[B] the home cluster"""
    newest: Ints
    """[B] o(d) on the day of the next item"""

    def take(self, rows: Ints) -> State:
        return State(self.last[rows], self.home[rows], self.newest[rows])


@dataclass(frozen=True)
class Events:
    """All events of a block of users: user after user, the events of a user by time."""

    first_user: int
    lengths: Ints
    """[users of the block] number of events"""
    item: Ints
    """[n]"""
    second: Ints
    """[n] seconds since START"""


@dataclass(frozen=True)
class Process:
    """A log of ``interactions`` events in files of about ``file_rows``; the users are divided among
    the files, and a file is a pure function of these fields and its number."""

    interactions: int
    users: int
    items: int
    clusters: int
    days: int
    file_rows: int
    seed: int

    @property
    def files(self) -> int:
        return min(-(-self.interactions // self.file_rows), self.users)

    def share(self, total: int, file: int) -> tuple[int, int]:
        """Begin and end of the file's part of ``total`` users or interactions."""
        return file * total // self.files, (file + 1) * total // self.files

    def homes(self, user: Ints) -> Ints:
        """Home cluster of each user."""
        u = _unit(splitmix(user.astype(np.uint64) * GOLDEN + _key(self.seed, 1)))
        return power_law_place(u, HOME_CLUSTER_SLOPE, self.clusters)

    def followers(self, item: Ints, which: Ints | int) -> Ints:
        """Follower number ``which`` (0…3) of each item."""
        number = (item * len(FOLLOWERS) + which).astype(np.uint64)
        u = _unit(splitmix(number * GOLDEN + _key(self.seed, 2)))
        return self.in_cluster(item % self.clusters, u, FOLLOWER_SLOPE)

    def in_cluster(self, cluster: Ints, u: Floats, slope: float) -> Ints:
        """The item at quantile ``u`` of each cluster."""
        return power_law_place(u, slope, self.sizes(cluster)) * self.clusters + cluster

    def sizes(self, cluster: Ints) -> Ints:
        """Items of each cluster."""
        return np.asarray(self.items // self.clusters + (cluster < self.items % self.clusters))

    def newest(self, second: Ints) -> Ints:
        """o(d) at each time."""
        return np.asarray(second // DAY % self.items)

    def probability(self, state: State, item: Ints) -> Floats:
        """[B, m] exact probability that item ``item[b, m]`` is the next item in state b."""
        k = self.clusters
        cluster, place, last = item % k, item // k, state.last[:, None]
        follows = np.zeros(item.shape)
        for which, weight in enumerate(FOLLOWERS):
            follows += weight * (item == self.followers(last, which))
        size = self.sizes(cluster)
        after = np.where(cluster == (last + 1) % k, power_law_mass(place, NEXT_SLOPE, size), 0)
        home = cluster == state.home[:, None]
        at_home = np.where(home, power_law_mass(place, HOME_SLOPE, size), 0)
        age = (state.newest[:, None] - item) % self.items
        trend = power_law_mass(age, TREND_SLOPE, self.items)
        return FOLLOW * follows + NEXT * after + HOME * at_home + TREND * trend

    def events(self, file: int) -> Events:
        """The events of file number ``file``, user after user."""
        lengths = self._lengths(file)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        second = self._seconds(file, lengths, owner)
        first_user = self.share(self.users, file)[0]
        item = self._items(file, lengths, first_user + owner, second)
        return Events(first_user, lengths, item, second)

    def table(self, file: int) -> pa.Table:
        """The file's rows: user_id, item_id, timestamp, ordered by time, then by user."""
        events = self.events(file)
        # Sorting numbers that end in the row's index is faster than argsort, and stable.
        row = np.arange(len(events.item))
        row = np.sort(events.second << _ROW_BITS | row) & ((1 << _ROW_BITS) - 1)
        user = np.repeat(events.first_user + np.arange(len(events.lengths)), events.lengths)
        return pa.table(
            {
                USER_ID: external_id(user, self.users)[row],
                ITEM_ID: external_id(events.item, self.items)[row],
                TIMESTAMP: events.second[row] + START,
            }
        )

    def _lengths(self, file: int) -> Ints:
        (a, b), (row_a, row_b) = self.share(self.users, file), self.share(self.interactions, file)
        # Box and Muller (1958): normal from two uniform numbers.
        u, v = _uniform(_key(self.seed, 3, file), b - a), _uniform(_key(self.seed, 4, file), b - a)
        normal = np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)
        weight = np.cumsum(np.exp(ACTIVITY_SIGMA * normal))
        ends = np.floor(weight / weight[-1] * (row_b - row_a - (b - a))).astype(np.int64)
        return np.asarray(1 + np.diff(ends, prepend=0))

    def _seconds(self, file: int, lengths: Ints, owner: Ints) -> Ints:
        """Sorted uniform times without sorting: n sums of n + 1 exponential gaps, divided by the
        sum of all (Devroye 1986, V.3.1)."""
        gaps = -np.log1p(-_uniform(_key(self.seed, 5, file), len(owner) + len(lengths)))
        total = np.cumsum(gaps)
        end = np.cumsum(lengths + 1)
        before = total[end - lengths - 1] - gaps[end - lengths - 1]
        span = total[end - 1] - before
        share = (total[np.arange(len(owner)) + owner] - before[owner]) / span[owner]
        seconds = (share * (self.days * DAY)).astype(np.int64)
        return np.asarray(np.minimum(seconds, self.days * DAY - 1))

    def _items(self, file: int, lengths: Ints, user: Ints, second: Ints) -> Ints:
        u = _uniform(_key(self.seed, 6, file), len(user))
        first = np.cumsum(lengths) - lengths
        u[first] = _MARKOV + (1 - _MARKOV) * u[first]
        item = np.empty(len(u), np.int64)
        at_home = (u >= _MARKOV) & (u < _MARKOV + HOME)
        rows = np.flatnonzero(at_home)
        homes = self.homes(user[rows])
        item[rows] = self.in_cluster(homes, (u[rows] - _MARKOV) / HOME, HOME_SLOPE)
        rows = np.flatnonzero(u >= _MARKOV + HOME)
        age = power_law_place((u[rows] - _MARKOV - HOME) / TREND, TREND_SLOPE, self.items)
        item[rows] = (self.newest(second[rows]) - age) % self.items
        self._continue(item, u)
        return item

    def _continue(self, item: Ints, u: Floats) -> None:
        """Fill the rows that depend on the previous row: first the rows whose previous row is
        known, then their next rows, …; runs are short, since a run continues with probability
        0.45."""
        depends: Bools = np.append(u < _MARKOV, False)
        rows = np.flatnonzero(depends[1:] & ~depends[:-1]) + 1
        while len(rows):
            last, v = item[rows - 1], u[rows]
            follows = v < FOLLOW
            found = np.empty(len(rows), np.int64)
            which = np.searchsorted(np.cumsum(FOLLOWERS)[:-1], v[follows] / FOLLOW, side="right")
            found[follows] = self.followers(last[follows], which)
            cluster = (last[~follows] + 1) % self.clusters
            quantile = (v[~follows] - FOLLOW) / NEXT
            found[~follows] = self.in_cluster(cluster, quantile, NEXT_SLOPE)
            item[rows] = found
            rows = rows[depends[rows + 1]] + 1


def external_id(index: Ints, n: int) -> Ints:
    """The ids 1…n in the log of users or items 0…n−1: 1 + (a·i + b) mod n, where a is the first
    number from 0.618 n (golden ratio) on that shares no divisor with n."""
    a = round(0.6180339887498949 * n) or 1
    while gcd(a, n) > 1:
        a += 1
    return np.asarray(1 + (index * a + n // 3) % n)


def _key(*parts: int) -> UInts:
    """[1] a hash of whole numbers."""
    h = np.zeros(1, np.uint64)
    for part in parts:
        h = splitmix(h + GOLDEN + np.uint64(part))
    return h


def _uniform(key: UInts, n: int) -> Floats:
    """[n] numbers in [0, 1): the stream SplitMix64 from ``key``."""
    return _unit(splitmix(np.arange(1, n + 1, dtype=np.uint64) * GOLDEN + key))


def _unit(bits: UInts) -> Floats:
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64)
