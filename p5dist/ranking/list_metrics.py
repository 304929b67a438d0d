"""Metrics of the listed items, beyond accuracy: popularity, novelty, diversity, serendipity,
concentration and coverage. ``ids`` [B, k] are those of :class:`.topk.Lists`: 0 after the last item.

A list shorter than k counts by its items; a list without items has no popularity and no novelty
(NaN), diversity and serendipity 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Bools, Floats, Ints, distinct, offsets_of, ranges
from p5dist.ranking.metrics import list_starts

_CELLS = 1 << 22  # of arrays of attribute values or pairs that are held at once


def user_counts(histories: Histories, items: int) -> Ints:
    """[items] users with at least one interaction with each id 1…items; the counts of parts add up
    where no user is in two parts."""
    _, user = np.unique(histories.user, return_inverse=True)
    keys = distinct(user[histories.owner()] * items + histories.item - 1)
    return np.bincount(keys % items, minlength=items).astype(np.int64)


def novelty(users_of: Ints, users: int) -> Floats:
    """[L] −log2(users with the item / users): the inverse user frequency of an item (Castells,
    Hurley and Vargas 2015); an item without users counts as one with one user.

    Args:
        users_of: [L] see :func:`user_counts`.
        users: number of users with training interactions.
    """
    return -np.log2(np.maximum(users_of, 1) / users)


def unit_vectors(vectors: npt.NDArray[np.floating]) -> Floats:
    """[n, d] the vectors divided by their lengths; a zero vector stays zero."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, length, out=np.zeros(vectors.shape), where=length > 0)
    return unit


def diversity(ids: Ints, listed: Ints, unit: Floats, ks: tuple[int, ...]) -> dict[str, Floats]:
    """``diversity@k`` [B]: the mean of 1 − cosine over the pairs of the first k listed items
    (intra-list diversity, Ziegler et al. 2005); 0 for fewer than two items. The cosine with a zero
    vector counts as 0.

    Of unit vectors |Σ v|² = Σ |v|² + 2 Σ_{i<j} cosine, so there is neither an array of pairs nor
    one of lists × items × width.

    Args:
        listed: [n] rising, at least the ids of the lists.
        unit: [n, d] the :func:`unit_vectors` of these ids.
        ks: rising.
    """
    there: Bools = (unit != 0).any(axis=1)
    total = np.zeros((len(ids), unit.shape[1]))
    number = np.zeros(len(ids), dtype=np.int64)
    nonzero = np.zeros(len(ids), dtype=np.int64)
    found: dict[str, Floats] = {}
    for before, k in pairwise((0, *ks)):
        some = ids[:, before:k]
        row, column = np.nonzero(some)
        place = np.searchsorted(listed, some[row, column])
        offsets = offsets_of((some > 0).sum(1))
        one = np.ones(len(place))
        total += csr_array((one, place, offsets), shape=(len(ids), len(listed))) @ unit
        number += np.diff(offsets)
        nonzero += np.bincount(row[there[place]], minlength=len(ids))
        cosines = (np.square(total).sum(1) - nonzero) / 2
        pairs = number * (number - 1) / 2
        found[f"diversity@{k}"] = np.where(pairs > 0, (pairs - cosines) / np.maximum(pairs, 1), 0.0)
    return found


def attribute_diversity(
    ids: Ints, offsets: Ints, values: Ints, ks: tuple[int, ...]
) -> dict[str, Floats]:
    """``diversity@k`` [B]: the mean Jaccard distance over the pairs of the first k listed items; 0
    for fewer than two items.

    The distance of two items is 1 − (their common attribute values) / (all values of the two); of
    two items without values 0, as SciPy's ``jaccard``.

    Args:
        offsets, values: of one attribute of :class:`p5dist.data.attributes.Attributes`: item i has
            the values ``values[offsets[i]:offsets[i + 1]]``, in any order.
    """
    most = int((offsets[ids + 1] - offsets[ids]).sum(1).max(initial=1))  # values of one list
    step = max(1, _CELLS // (ids.shape[1] * max(ids.shape[1], most)))
    parts = [
        _jaccard(ids[start : start + step], offsets, values) for start in range(0, len(ids), step)
    ]
    distances = np.concatenate([np.zeros((0, ids.shape[1])), *parts]).cumsum(1)
    number = (ids > 0).cumsum(1)
    found = {}
    for k in ks:
        i = min(k, ids.shape[1]) - 1
        pairs = number[:, i] * (number[:, i] - 1) / 2
        mean = distances[:, i] / np.maximum(pairs, 1)
        found[f"diversity@{k}"] = np.where(pairs > 0, mean, 0.0)
    return found


def serendipity(
    rank: Ints,
    item: Ints,
    list_: Ints,
    listed: Ints,
    count: Ints,
    items: int,
    ks: tuple[int, ...],
) -> dict[str, Floats]:
    """``serendipity@k`` [lists]: hits weighted by how much less popular the item is than its rank,
    as RecTools defines it: the mean over the first k listed items of ``max(p − q, 0) · hit`` with p
    = (n + 1 − rank) / n and q = (n + 1 − place of the item) / n, n the items of the catalogue. The
    place is that among the distinct training counts, the largest first (items of equal count share
    it); q = 0 of an item without training interaction.

    Args:
        rank, item, list_: [M] as of :func:`.metrics.list_values`.
        listed: [lists] length of each list.
        count: [L] training interactions of each id 1…L.
        items: n
    """
    order = np.lexsort((item, list_))
    repeated = np.zeros(len(item), dtype=bool)
    repeated[order[1:]] = (np.diff(item[order]) == 0) & (np.diff(list_[order]) == 0)
    starts = list_starts(list_)
    of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(list_))))
    trained = np.unique(count[count > 0])
    place = len(trained) - np.searchsorted(trained, count[item - 1])
    popular = np.where(count[item - 1] > 0, (items + 1 - place) / items, 0.0)
    gain = np.maximum((items + 1 - rank.astype(np.float64)) / items - popular, 0.0)
    gain[repeated] = 0.0
    found = {}
    for k in ks:
        total = np.bincount(of, np.where(rank <= k, gain, 0.0), len(starts))
        found[f"serendipity@{k}"] = total / np.maximum(np.minimum(listed, k), 1)
    return found


@dataclass(frozen=True)
class ItemCounts:
    """How often each item is listed, as whole numbers: parts add up exactly, in any order.

    Args:
        ks: rising.
        lists: [max(ks) + 1] number of lists of each length.
        keys: rising, one for every combination that occurs: (id · len(ks) + index of the smallest k
            that is at least the item's rank) · (max(ks) + 1) + length of the list.
        counts: how often each occurs.
    """

    ks: tuple[int, ...]
    lists: Ints
    keys: Ints
    counts: Ints

    @classmethod
    def of(cls, ids: Ints, ks: tuple[int, ...]) -> ItemCounts:
        """The counts of some lists; an item is at most once in a list."""
        ids = ids[:, : max(ks)]
        length = (ids > 0).sum(1)
        row, place = np.nonzero(ids)
        first = np.searchsorted(ks, place + 1)
        keys = (ids[row, place] * len(ks) + first) * (max(ks) + 1) + length[row]
        keys, counts = _added(keys, np.ones(len(keys), dtype=np.int64))
        return cls(ks, np.bincount(length, minlength=max(ks) + 1), keys, counts)

    @classmethod
    def added(cls, parts: Sequence[ItemCounts]) -> ItemCounts:
        """The counts of the lists of all parts; there is at least one part."""
        keys = np.concatenate([part.keys for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        lists = np.sum([part.lists for part in parts], axis=0)
        return cls(parts[0].ks, lists, *_added(keys, counts))

    def __add__(self, other: ItemCounts) -> ItemCounts:
        return ItemCounts.added([self, other])

    def means(self, name: str, value: Array) -> dict[str, float]:
        """``name@k``: the mean over all lists that have an item of the mean of a value over the
        first k listed items. With the training interactions of each item this is RecTools'
        AvgRecPopularity, with :func:`novelty` its MeanInvUserFreq.

        Args:
            value: [L] of the ids 1…L.
        """
        item, first, length = self._parts()
        of_item = np.asarray(value[item - 1], dtype=np.float64) * self.counts
        lists = int(self.lists[1:].sum())
        found = {}
        for index, k in enumerate(self.ks):
            total = (of_item / np.minimum(length, k))[first <= index].sum()
            found[f"{name}@{k}"] = float(total / lists) if lists else float("nan")
        return found

    def coverage(self, items: int) -> dict[str, float]:
        """``coverage@k``: the share of the catalogue of ``items`` items that is listed."""
        return {
            f"coverage@{k}": len(self.times(index)[0]) / items for index, k in enumerate(self.ks)
        }

    def gini(self, items: int) -> dict[str, float]:
        """``gini@k``: how unequally often the items are listed, from 0 (all equally often) to 1
        (always the same one).

        With x_1 ≤ … ≤ x_n the times that each of the n items of the catalogue is listed (0 for
        never), ``Σ_j (2j − n − 1) · x_j / ((n − 1) · Σ_j x_j)`` (Castells, Hurley and Vargas 2015).

        Args:
            items: n
        """
        found = {}
        for index, k in enumerate(self.ks):
            times = np.sort(self.times(index)[1])  # the largest places j; the others add 0
            j = np.arange(items - len(times) + 1, items + 1)
            total = max(1, items - 1) * times.sum()
            found[f"gini@{k}"] = float(((2 * j - items - 1) * times).sum() / max(total, 1))
        return found

    def _parts(self) -> tuple[Ints, Ints, Ints]:
        """Id, index of k and length of the list of each key."""
        rest, length = np.divmod(self.keys, max(self.ks) + 1)
        item, first = np.divmod(rest, len(self.ks))
        return item, first, length

    def times(self, index: int) -> tuple[Ints, Ints]:
        """The items that are among the first ``ks[index]`` of a list, and how often each is."""
        item, first, _ = self._parts()
        chosen = first <= index
        return _added(item[chosen], self.counts[chosen])


def _added(keys: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """The distinct keys, rising, and the sum of the counts of each."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[first], np.add.reduceat(counts[order], first)


def _jaccard(ids: Ints, offsets: Ints, values: Ints) -> Floats:
    """[b, k] the sum of the distances of each item to the items before it in its list."""
    flat = ids.reshape(-1)
    begin, lengths = offsets[flat], offsets[flat + 1] - offsets[flat]
    cell = np.repeat(np.arange(len(flat)), lengths)
    value = values[ranges(begin, lengths)]
    # The distinct values of each list get the numbers 0, 1, …
    base = int(value.max(initial=0)) + 1
    key = cell // ids.shape[1] * base + value
    named = distinct(key)
    list_of = named // base
    number = np.arange(len(named)) - np.searchsorted(named, list_of * base)
    width = int(number.max(initial=-1)) + 1
    has = np.zeros((len(flat), width), dtype=np.float32)
    has[cell, number[np.searchsorted(named, key)]] = 1
    has = has.reshape(*ids.shape, width)
    both = (has @ has.transpose(0, 2, 1)).astype(np.float64)
    size = has.sum(2, dtype=np.float64)
    either = size[:, :, None] + size[:, None, :] - both
    distance = np.where(either > 0, 1 - both / np.maximum(either, 1), 0.0)
    there: Bools = ids > 0
    distance *= there[:, :, None] & there[:, None, :]
    summed: Floats = np.tril(distance, -1).sum(2)
    return summed
