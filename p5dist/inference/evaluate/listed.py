"""What is listed, counted while users are scored: how often each item is listed, and how different
the items of a list are.

All sums are whole numbers, so that the portions of any number of actors add up to the same result.
No list leaves the process that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist.config import RunConfig
from p5dist.config.output import VECTORS
from p5dist.data.attributes import Attributes
from p5dist.data.jagged import Array, Floats, Ints, distinct
from p5dist.ranking.list_metrics import ItemCounts, attribute_diversity, diversity, unit_vectors
from p5dist.storage import Folder

Lists = Mapping[str, Ints]
"""[B, k] item ids by ranker, 0 after the last item."""
Distances = Callable[[Lists, tuple[int, ...]], Mapping[str, Mapping[str, Floats]]]
"""(lists, ks) → by ranker ``diversity@k`` [B]"""
LENGTHS, KEYS, COUNTS, DIVERSITY = "lengths", "keys", "counts", "diversity"
"""Prefixes of column names: ``keys:<ranker>``."""
_UNIT = 1 << 30
"""Diversity is added up in steps of 10⁻⁹: exact in any order, for up to 4 billion lists."""
_WAITING = 1 << 20  # keys of counts that are not added yet


@dataclass
class Listed:
    """What one ranker listed.

    Args:
        ks: rising.
    """

    ks: tuple[int, ...]
    diversity: Ints | None = None
    """[ks] sums over the lists, in steps; None: not measured"""
    _parts: list[ItemCounts] = field(default_factory=list)

    def add(self, counts: ItemCounts, diversity: Ints | None) -> None:
        """Take in more lists."""
        self._parts.append(counts)
        if sum(len(part.keys) for part in self._parts[1:]) > max(
            len(self._parts[0].keys), _WAITING
        ):
            self._parts = [self.counts]
        if diversity is not None:
            self.diversity = diversity if self.diversity is None else self.diversity + diversity

    @property
    def counts(self) -> ItemCounts:
        """Of all lists."""
        if not self._parts:
            return ItemCounts.of(np.zeros((0, 1), dtype=np.int64), self.ks)
        self._parts = [ItemCounts.added(self._parts)]
        return self._parts[0]

    def mean_diversity(self) -> dict[str, float]:
        """``diversity@k``: the mean over all lists."""
        lists = int(self.counts.lists.sum())
        if self.diversity is None or not lists:
            return {}
        return {
            f"{DIVERSITY}@{k}": int(total) / _UNIT / lists
            for k, total in zip(self.ks, self.diversity, strict=True)
        }

    def columns(self, ranker: str) -> dict[str, pa.Array]:
        """As columns of one row; :meth:`read` reads them."""
        counts = self.counts
        arrays = {LENGTHS: counts.lists, KEYS: counts.keys, COUNTS: counts.counts}
        if self.diversity is not None:
            arrays[DIVERSITY] = self.diversity
        return {f"{name}:{ranker}": one_row(values) for name, values in arrays.items()}

    def read(self, row: pa.Table, ranker: str) -> None:
        """Take in the columns of a portion."""
        arrays = {
            name: values_of(row, f"{name}:{ranker}")
            for name in (LENGTHS, KEYS, COUNTS, DIVERSITY)
            if f"{name}:{ranker}" in row.column_names
        }
        counts = ItemCounts(self.ks, arrays[LENGTHS], arrays[KEYS], arrays[COUNTS])
        self.add(counts, arrays.get(DIVERSITY))


class Lister:
    """Counts the lists of a portion.

    Args:
        ks: rising.
        distances: None: no diversity.
    """

    def __init__(self, ks: tuple[int, ...], distances: Distances | None) -> None:
        self._ks, self._distances = ks, distances
        self._found: dict[str, Listed] = {}

    def add(self, lists: Lists) -> None:
        """Take in the lists of some histories."""
        different = {} if self._distances is None else self._distances(lists, self._ks)
        for name, ids in lists.items():
            sums = None
            if name in different:
                steps = [np.rint(values * _UNIT) for values in different[name].values()]
                sums = np.array([int(values.sum()) for values in steps], dtype=np.int64)
            self._found.setdefault(name, Listed(self._ks)).add(ItemCounts.of(ids, self._ks), sums)

    def columns(self) -> dict[str, pa.Array]:
        """The columns of all rankers."""
        found: dict[str, pa.Array] = {}
        for name, listed in self._found.items():
            found |= listed.columns(name)
        return found


@dataclass(frozen=True)
class ByVectors:
    """Distances by the model's item vectors, for the lists of the baselines too: the numbers of one
    table compare.

    Args:
        model: has ``item_vectors(ids) -> Tensor`` [n, dim].
    """

    model: Any

    def __call__(self, lists: Lists, ks: tuple[int, ...]) -> dict[str, dict[str, Floats]]:
        """See :data:`Distances`; only the vectors of listed items are read."""
        listed = distinct(np.concatenate([ids.reshape(-1) for ids in lists.values()]))
        listed = listed[listed > 0]
        unit = np.zeros((0, 1))
        if len(listed):
            unit = unit_vectors(self.model.item_vectors(listed).cpu().numpy())
        return {name: diversity(ids, listed, unit, ks) for name, ids in lists.items()}


@dataclass(frozen=True)
class ByAttribute:
    """Distances by the values of an item attribute."""

    offsets: Ints
    values: Ints

    def __call__(self, lists: Lists, ks: tuple[int, ...]) -> dict[str, dict[str, Floats]]:
        """See :data:`Distances`."""
        return {
            name: attribute_diversity(ids, self.offsets, self.values, ks)
            for name, ids in lists.items()
        }


def distances_of(job: RunConfig, prepare: Folder, model: Any) -> Distances | None:
    """By ``evaluate.diversity_by``."""
    assert job.evaluate is not None
    by = job.evaluate.diversity_by
    if by is None:
        return None
    if by == VECTORS:
        return ByVectors(model)
    attributes = Attributes.load(prepare, "item", (by,))
    assert attributes is not None
    return ByAttribute(attributes.offsets[0], attributes.values[0])


def one_row(values: Array | Sequence[int]) -> pa.Array:
    """A column of one row that holds all values."""
    return pa.ListArray.from_arrays([0, len(values)], pa.array(values))


def values_of(table: pa.Table, name: str) -> Array:
    """The values of a column of one row."""
    return np.asarray(table[name].combine_chunks().flatten())
