"""The items of a run: external ids ↔ internal ids, training interactions, titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Bools, Ints, contains
from p5dist.data.manifest import Manifest
from p5dist.data.supplied import has_vectors, vectors_of
from p5dist.errors import DataError
from p5dist.inference.lookup import Lookup
from p5dist.prepare.arrays import one_array, stable_hash
from p5dist.storage import Folder

Id = str | int
SHOWN = 5
"""Ids that a message names."""


@dataclass(frozen=True)
class ItemIds:
    """The items of a run by id."""

    external: pa.StringArray
    """[largest id] external id of each id from 1; null for a hashed id that no item has."""
    count: Ints
    """[largest id] training interactions."""
    hashed: int | None
    catalogue: Catalogue

    @classmethod
    def read_ids(cls, job: RunConfig, prepare: Folder, manifest: Manifest) -> ItemIds:
        """From the prepared data of a run."""
        table = (prepare / "vocabulary/item.parquet").read_table([c.EXTERNAL_ID, c.COUNT])
        return ItemIds(
            one_array(table[c.EXTERNAL_ID]),
            table[c.COUNT].to_numpy(),
            job.prepare.vocabulary.hashed,
            Catalogue.read(prepare, manifest),
        )

    def __len__(self) -> int:
        return self.catalogue.items

    def ids(self, external: Sequence[Id]) -> Ints:
        """[n] ids from 1; 0 for items that the run does not know."""
        return self.of_text(pa.array(map(id_text, external), pa.string()))

    def of_text(self, text: pa.StringArray) -> Ints:
        """:meth:`ids` of external ids as text."""
        if self.hashed is not None:
            ids: Ints = (stable_hash(text) % np.uint64(self.hashed)).astype(np.int64) + 1
            return np.where(contains(self.catalogue.absent, ids), 0, ids)
        return self._lookup(text) + 1

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.external)


@dataclass(frozen=True)
class Items(ItemIds):
    """The items of a run, with what is shown of them."""

    titles: pa.StringArray | None
    described: Bools
    """[largest id] whether the item has a value of an attribute that the model reads."""

    @classmethod
    def read(cls, job: RunConfig, prepare: Folder, manifest: Manifest) -> Items:
        """From the prepared data of a run."""
        ids = ItemIds.read_ids(job, prepare, manifest)
        titles = None
        described = np.zeros(len(ids.external), dtype=bool)
        section = job.prepare.items
        if section is not None:
            names = [c.TITLE] if section.title is not None else []
            read = (prepare / "attributes/item.parquet").read_table(
                [*names, *job.model.item_attributes]
            )
            titles = one_array(read[c.TITLE]) if names else None
            for name in job.model.item_attributes:
                described |= (
                    np.asarray(pc.list_value_length(one_array(read[name])).fill_null(0)) > 0
                )
        for name in job.model.item_vectors:
            width = manifest.item_vectors[name]
            described |= has_vectors(vectors_of(prepare, "item", name, manifest.items, width))
        return cls(ids.external, ids.count, ids.hashed, ids.catalogue, titles, described)

    @property
    def has_vector(self) -> Bools:
        """[largest id] whether the item has training interactions or attribute values."""
        found: Bools = (self.count > 0) | self.described
        return found

    def titles_at(self, index: pa.Array) -> pa.Array:
        """[n] titles of the ids ``index + 1`` [n]; null without titles."""
        if self.titles is None:
            return pa.nulls(len(index), pa.string())
        return self.titles.take(index)


def id_text(value: Any) -> str:
    """An id as prepared data has it: whole numbers of any type without a fraction."""
    if type(value) is str:
        return value
    if isinstance(value, (float, np.floating, Decimal)) and value == value // 1:
        return str(int(value))
    return str(value)


def known_items(items: Items, wanted: Sequence[Id], where: str) -> Ints:
    """[n] ids of items that the run must know.

    Raises:
        DataError: the run does not know an item.
    """
    ids = items.ids(wanted)
    if (ids == 0).any():
        named = ", ".join(repr(wanted[i]) for i in np.flatnonzero(ids == 0)[:SHOWN])
        raise DataError(
            "items that the run does not know", where=where, value=named,
            rule=f"the run knows {len(items):,} items, by the ids of its log",
            fix="correct the ids",
        )  # fmt: skip
    return ids
