"""The catalogue: the item ids that an item has.

Only these ids are candidates: of losses and drawn items, of ranking, of coverage. A hashed
vocabulary also has ids that no item has; their rows are never trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow.dataset as ds

from p5dist.data import columns as c
from p5dist.data.jagged import Ints, contains
from p5dist.data.manifest import Manifest
from p5dist.storage import Folder


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The ids 1…largest except ``absent``."""

    largest: int
    """Largest id, and the number of columns of scores."""
    absent: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Rising ids that no item has."""
    unnamed: int = 0
    """Items that share the id of another item, see :attr:`.Manifest.unnamed_items`."""

    @classmethod
    def read(cls, prepare: Folder, manifest: Manifest) -> Catalogue:
        """The catalogue of prepared data; of the vocabulary only the ids without item are read."""
        file = prepare / "vocabulary/item.parquet"
        table = ds.dataset(file.path, filesystem=file.fs).to_table(
            columns=[c.ID], filter=ds.field(c.EXTERNAL_ID).is_null()
        )
        absent = np.sort(table[c.ID].to_numpy().astype(np.int64))
        return cls(manifest.items, absent, manifest.unnamed_items)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Catalogue)
            and self.largest == other.largest
            and np.array_equal(self.absent, other.absent)
        )

    def __len__(self) -> int:
        """Number of ids that an item has."""
        return self.largest - len(self.absent)

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self) + self.unnamed

    @cached_property
    def ids(self) -> Ints:
        """[len] the ids, rising."""
        return np.delete(np.arange(1, self.largest + 1, dtype=np.int64), self.absent - 1)

    def at(self, index: Ints) -> Ints:
        """The ids at the places ``index`` (from 0) among all ids; any shape."""
        return self.ids[index] if len(self.absent) else index + 1

    def joined(self, other: Catalogue) -> Catalogue:
        """The ids that an item of either catalogue has; ids beyond ``self.largest`` are left
        out."""
        still = (self.absent > other.largest) | contains(other.absent, self.absent)
        return Catalogue(self.largest, self.absent[still])
