"""The people to be forgotten: external ids, and where a run knows them, internal ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.inference.lists.id_files import read_ids
from p5dist.prepare.arrays import one_array
from p5dist.prepare.pseudonyms import key_of, pseudonyms
from p5dist.storage import Folder

USERS = "vocabulary/user.parquet"


@dataclass(frozen=True)
class People:
    """Some people, as one run knows them."""

    names: pa.StringArray
    """External ids: of all who are to be forgotten, also of those whom the run does not know."""
    ids: Ints
    """Internal ids, rising."""
    known: frozenset[str] = frozenset()
    """External ids of those whom the run knows."""

    def among(self, names: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """[n] whether an external id is one of theirs."""
        return np.asarray(pc.is_in(one_array(names), value_set=self.names))


def read_people(job: RunConfig, file: str) -> pa.StringArray:
    """External ids from a file, as pseudonyms where the job has them.

    Raises:
        DataError: the file cannot be read.
        ConfigError: the key of the pseudonyms is not set.
    """
    names = read_ids(file, "--users", [job.prepare.source.columns.user, c.USER_ID])
    variable = job.prepare.privacy.pseudonyms
    if variable is None:
        return names
    key = key_of(variable, "prepare.privacy.pseudonyms")
    return pa.array(pseudonyms(names.to_pylist(), key), pa.string())


def find_people(names: pa.StringArray, prepare: Folder) -> People:
    """The internal ids; the vocabulary streams by."""
    file, found, known = prepare / USERS, [], set[str]()
    if file.exists():
        with pq.ParquetFile(file.path, filesystem=file.fs) as opened:
            for group in opened.iter_batches(columns=[c.ID, c.EXTERNAL_ID]):
                there = pc.is_in(group.column(c.EXTERNAL_ID), value_set=names)
                found.append(group.column(c.ID).filter(there).to_numpy())
                known.update(group.column(c.EXTERNAL_ID).filter(there).to_pylist())
    ids: Ints = np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
    return People(names, ids, frozenset(known))


def edited(source: Folder, target: Folder, edit: Callable[[pa.Table, int], pa.Table]) -> None:
    """Write a Parquet file anew, one row group at a time.

    Args:
        edit: rows and the number of the first row → as many rows.
    """
    with (
        pq.ParquetFile(source.path, filesystem=source.fs) as opened,
        target.fs.open_output_stream(target.path) as sink,
        pq.ParquetWriter(sink, opened.schema_arrow) as writer,
    ):
        first = 0
        for number in range(opened.metadata.num_row_groups):
            table = edit(opened.read_row_group(number), first)
            writer.write_table(table)
            first += len(table)
