"""External ids → internal ids, exact and the same at any number of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.prepare import ItemVocabulary
from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints
from p5dist.prepare.arrays import Codes, Ids, id_order, one_array, stable_hash

USERS = "users"
"""Column: how many users have interacted with an item."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids 1…n; row i of both columns belongs to id i + 1."""

    external: pa.StringArray
    """Null for a hashed id that no item has."""
    count: Ints
    unnamed: int = 0
    """Items that share the id of another item, see :attr:`.Manifest.unnamed_items`."""

    def __len__(self) -> int:
        return len(self.external)

    @property
    def named(self) -> Bools:
        """[n] whether the id has an external id."""
        found: Bools = self.external.is_valid().to_numpy(zero_copy_only=False)
        return found

    @classmethod
    def by_count(
        cls,
        parts: Iterable[tuple[pa.StringArray, Ints, Ints]],
        earlier: Ids | None = None,
        min_seen: int = 1,
    ) -> Vocabulary:
        """Ids by falling count, ties by external id (as numbers if all of them are whole numbers,
        else by their UTF-8 bytes).

        Args:
            parts: (values, counts, occurrences)
            earlier: external ids that keep the ids 1…n, seen or not; other values follow.
            min_seen: values with fewer occurrences get no id.
        """
        rows = [pa.table({"value": v, "count": n, "seen": s}) for v, n, s in parts]
        if not rows:
            return cls(pa.array([], pa.string()), np.zeros(0, np.int64))
        table = (
            pa.concat_tables(rows).group_by("value").aggregate([("count", "sum"), ("seen", "sum")])
        )
        values = one_array(table["value"])
        by_id = id_order(values)
        count, seen = np.asarray(table["count_sum"])[by_id], np.asarray(table["seen_sum"])[by_id]
        found, _ = cls.of_counts(values.take(pa.array(by_id)), count, seen >= min_seen, earlier)
        return found

    @classmethod
    def of_counts(
        cls, values: Ids, count: Ints, keep: Bools, earlier: Ids | None = None
    ) -> tuple[Vocabulary, Ints]:
        """Ids by falling count, ties in the order of ``values``; and [n] the id of each value, 0
        where it has none.

        Args:
            values: [n] distinct external ids, in the order that decides between equal counts.
            count: [n]
            keep: [n] whether a value gets an id.
            earlier: as :meth:`by_count`.
        """
        old = pa.array([], pa.string()) if earlier is None else earlier
        text = values.cast(pa.string())
        ids = np.asarray(pc.fill_null(pc.index_in(text, value_set=old), -1)).astype(np.int64) + 1
        new = np.flatnonzero(keep & (ids == 0))
        new = new[np.argsort(-count[new], kind="stable")]
        ids[new] = len(old) + 1 + np.arange(len(new))
        counts = np.zeros(len(old) + len(new), np.int64)
        counts[ids[ids > 0] - 1] = count[ids > 0]
        return cls(pa.concat_arrays([old, text.take(pa.array(new))]), counts), ids

    @classmethod
    def hashed(cls, values: Ids, count: Ints, there: Bools, size: int) -> tuple[Vocabulary, Ints]:
        """``size`` ids, id = 1 + stable_hash(external id) mod size; and [n] the id of each value.
        The external id of an id is the most frequent one, ties in the order of ``values``.

        Args:
            there: [n] whether the log still has the value.
        """
        text = values.cast(pa.string())
        ids = (stable_hash(text) % np.uint64(size)).astype(np.int64) + 1
        rising = np.argsort(-count, kind="stable")[::-1]
        rising = rising[there[rising]]
        owner = np.full(size, -1, np.int64)
        owner[ids[rising] - 1] = rising  # of values with the same id the last one stays
        external = text.take(pa.array(owner, mask=owner < 0))
        counts = np.bincount(ids - 1, count, size).astype(np.int64)
        return cls(external, counts, len(rising) - int((owner >= 0).sum())), ids

    def ids(self, values: pa.Array) -> Ints:
        """[n] internal ids; 0 for values that have none."""
        index = pc.index_in(values, value_set=self.external)
        return np.asarray(pc.fill_null(index, -1)).astype(np.int64) + 1

    def table(self) -> pa.Table:
        """As columns.VOCABULARY."""
        ids = np.arange(1, len(self) + 1, dtype=np.int64)
        return pa.table([ids, self.external, self.count], schema=c.VOCABULARY)

    @classmethod
    def of_table(cls, table: pa.Table) -> Vocabulary:
        """From columns.VOCABULARY."""
        return cls(one_array(table[c.EXTERNAL_ID]), table[c.COUNT].to_numpy())


def item_vocabulary(
    rule: ItemVocabulary, catalogue: Ids, train: Ints, seen: Ints, earlier: Ids | None
) -> tuple[Vocabulary, Ints]:
    """The item vocabulary, and [n] the id of every item of the catalogue, 0 where it has none.

    Args:
        catalogue: [n] external ids of the whole log, in id order.
        train: [n] training interactions.
        seen: [n] interactions.
        earlier: external ids of ``rule.extend``.
    """
    if rule.hashed is not None:
        return Vocabulary.hashed(catalogue, train, seen > 0, rule.hashed)
    keep = train if rule.of == "train" else seen
    return Vocabulary.of_counts(catalogue, train, keep > 0, earlier)


def merge_counted(parts: Sequence[pa.Table]) -> pa.Table:
    """Tables of distinct items and their counts → one of the distinct items of all, in id order,
    and the sums of their counts (COUNT, USERS)."""
    whole = pa.concat_tables(parts)
    counts = [name for name in whole.column_names if name != c.ITEM]
    grouped = whole.group_by(c.ITEM, use_threads=False)
    found = grouped.aggregate([(name, "sum") for name in counts])
    found = found.rename_columns([c.ITEM, *counts])
    return found.take(pa.array(id_order(one_array(found[c.ITEM]))))


def catalogue_indices(ids: Ids, catalogue: Ids) -> Codes:
    """[n] the index of each id in a catalogue of :func:`merge_counted` that contains it."""
    if pa.types.is_string(ids.type):
        return np.asarray(pc.index_in(ids, value_set=catalogue)).astype(np.int32)
    # Many times faster than a hash table of a large catalogue, which is in the order of numbers.
    wanted = ids.to_numpy(zero_copy_only=False)
    order = np.argsort(wanted)
    found = np.empty(len(wanted), np.int32)
    found[order] = np.searchsorted(catalogue.to_numpy(zero_copy_only=False), wanted[order])
    return found


def expected_collisions(items: int, size: int) -> float:
    """How many of ``items`` share their hashed id with another one, if hashes were drawn evenly
    from ``size``: n (1 − (1 − 1/m)^(n−1))."""
    return items * -float(np.expm1((items - 1) * np.log1p(-1 / size))) if size > 1 else items
