"""How often training meets each item where windows cut long histories: in-batch negatives come from
windows, so their logQ correction needs these numbers instead of counts of all interactions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from p5dist.data.jagged import Floats, Ints
from p5dist.feed.mix import Mix
from p5dist.feed.units import UnitReader

_UNIT = 1 << 20
"""Probabilities are counted in this part of 1: whole numbers have the same sum on any number of
workers."""


def met_in_windows(
    mix: Mix,
    readers: Sequence[UnitReader],
    *,
    rank: int,
    workers: int,
    add: Callable[[Ints], Ints],
) -> Floats:
    """[largest id] expected number of interactions of item id i + 1 in the windows that training
    takes in one epoch of this job's own data. All workers call it together; each reads its part of
    the row groups.

    Args:
        readers: of the data sets of the mix.
        add: sums equally shaped arrays of all workers.
    """
    found = np.zeros(mix.own.manifest.items)
    for one, reader in zip(mix.sets, readers, strict=True):
        mine = window_counts(reader, range(rank, len(reader.shards.groups), workers))
        found[: len(mine)] += add(mine) / _UNIT * mix.epochs(one)
    return found


def window_counts(reader: UnitReader, groups: Iterable[int]) -> Ints:
    """[largest id] sums of :func:`window_shares` by item over some row groups, in units of
    1 / _UNIT."""
    shards = replace(reader.shards, columns=())
    found = np.zeros(shards.manifest.items, dtype=np.int64)
    for group in groups:
        histories = shards.group(group).training()
        share = window_shares(histories.lengths, reader.max_length, random=reader.random_window)
        sums = np.bincount(histories.item - 1, np.rint(share * _UNIT), len(found))
        found += sums.astype(np.int64)
    return found


def window_shares(lengths: Ints, longest: int, *, random: bool) -> Floats:
    """[T] probability of each interaction of some histories to be in the window of at most
    ``longest`` interactions that :meth:`.UnitReader.read` takes."""
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    last = np.repeat(np.maximum(lengths - longest, 0), lengths)
    if not random:
        return (position >= last).astype(np.float64)
    starts = np.minimum(position, last) - np.maximum(position - longest + 1, 0) + 1
    shares: Floats = starts / (last + 1)
    return shares
