"""External ids → internal ids, exact and the same at any number of tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist import columns as c
from p5dist.prepare.arrays import Ints, id_order


@dataclass(frozen=True)
class Vocabulary:
    """Ids 1…n; row i of both columns belongs to id i + 1."""

    external: pa.StringArray
    count: Ints

    def __len__(self) -> int:
        return len(self.external)

    @classmethod
    def by_count(cls, parts: Iterable[tuple[pa.StringArray, Ints, Ints]]) -> Vocabulary:
        """Ids by falling count, ties by external id (as numbers if all of them are whole numbers,
        else by their UTF-8 bytes).

        Args:
            parts: (values, counts, occurrences); values without any occurrence get no id.
        """
        rows = [pa.table({"value": v, "count": n, "seen": s}) for v, n, s in parts]
        table = (
            pa.concat_tables(rows).group_by("value").aggregate([("count", "sum"), ("seen", "sum")])
        )
        table = table.filter(pc.greater(table["seen_sum"], 0)).combine_chunks()
        if not len(table):
            return cls(pa.array([], pa.string()), np.zeros(0, np.int64))
        values = table["value"].chunk(0)
        by_id = id_order(values)
        count = np.asarray(table["count_sum"])
        by_count = by_id[np.argsort(-count[by_id], kind="stable")]
        return cls(values.take(pa.array(by_count)), count[by_count])

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
        external = table[c.EXTERNAL_ID].combine_chunks()
        if isinstance(external, pa.ChunkedArray):
            external = pa.concat_arrays(external.chunks)
        return cls(external, table[c.COUNT].to_numpy())
