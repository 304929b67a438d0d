"""The ids that an item has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.manifest import Manifest
from p5dist.storage import Folder


def test_ids_without_external_id_are_left_out(tmp_path: Path) -> None:
    prepare = Folder.open(str(tmp_path))
    manifest = Manifest(
        fingerprint="", shards=(), rows_in=9, rows_kept=9, rows_rejected={}, rows_by_split={},
        users=1, users_by_split={}, items=5, unnamed_items=4, longest_history=9, split="",
    )  # fmt: skip
    columns = [[1, 2, 3, 4, 5], [None, "b", None, "d", "e"], [0, 7, 0, 0, 2]]
    table = pa.table(columns, schema=c.VOCABULARY)
    (prepare / "vocabulary/item.parquet").write_table(table, row_group_size=2)
    found = Catalogue.read(prepare, manifest)
    assert found == Catalogue(5, np.asarray([1, 3]))
    assert found != Catalogue(5) and found != Catalogue(6, np.asarray([1, 3]))
    assert len(found) == 3 and found.items == 3 + 4
    assert found.ids.tolist() == [2, 4, 5]
    assert found.at(np.asarray([[2, 0], [1, 1]])).tolist() == [[5, 2], [4, 4]]


def test_a_whole_catalogue() -> None:
    assert Catalogue(3).ids.tolist() == [1, 2, 3]
    assert Catalogue(3).at(np.asarray([2, 0])).tolist() == [3, 1]


def test_an_id_is_there_if_either_catalogue_has_it() -> None:
    own, other = Catalogue(6, np.asarray([1, 2, 4, 6])), Catalogue(4, np.asarray([2, 3]))
    assert own.joined(other).ids.tolist() == [1, 3, 4, 5]
    assert own.joined(Catalogue(0)).ids.tolist() == [3, 5]
