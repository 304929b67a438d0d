"""Vocabularies, tables about users and rejected rows without people: new files beside old ones."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints, contains
from p5dist.data.manifest import NEW, Manifest
from p5dist.data.supplied import vectors_of
from p5dist.forgetting.people import USERS, People, edited
from p5dist.prepare.arrays import one_array
from p5dist.storage import Folder
from p5dist.storage.arrays import write_array


@dataclass
class Edits:
    """New files beside old ones."""

    prepare: Folder
    names: list[str] = field(default_factory=list)

    def new(self, name: str) -> Folder:
        """The place of the new version of a file."""
        self.names.append(name)
        return self.prepare / (name + NEW)


def edit_vocabularies(
    edits: Edits,
    manifest: Manifest,
    people: People,
    items: Counter[int],
    context: dict[str, set[int]],
) -> None:
    """Users lose their names, items their counts, values that nobody else has their names.

    Args:
        items: training interactions of the people by item.
        context: their value ids by context column.
    """
    names, counts = np.array(sorted(items), np.int64), items

    def item(table: pa.Table, first: int) -> pa.Table:
        here = names[(names > first) & (names <= first + len(table))]
        count = table[c.COUNT].to_numpy().copy()
        fewer = np.array([counts[int(one)] for one in here], np.int64)
        count[here - first - 1] = np.maximum(count[here - first - 1] - fewer, 0)
        return _with_column(table, c.COUNT, pa.array(count))

    def user(table: pa.Table, first: int) -> pa.Table:
        theirs = _here(people.ids, first, len(table))
        table = _with_column(table, c.EXTERNAL_ID, _null(table[c.EXTERNAL_ID], theirs))
        count = np.where(theirs, 0, table[c.COUNT].to_numpy())
        return _with_column(table, c.COUNT, pa.array(count))

    for name, edit in (("vocabulary/item.parquet", item), (USERS, user)):
        edited(edits.prepare / name, edits.new(name), edit)
    if manifest.since is None:  # else runs before this one have values of others
        for name, values in context.items():
            _context(edits, manifest, name, values - {0}, people)


def _context(edits: Edits, manifest: Manifest, name: str, values: set[int], people: People) -> None:
    """Values of a context column that nobody else has lose their names."""
    for shard in manifest.shards:
        if not values:
            return
        table = (edits.prepare / shard.path).read_table([c.USER, name])
        others = table.filter(pa.array(~contains(people.ids, table[c.USER].to_numpy())))
        values = values - set(pc.unique(one_array(others[name]).flatten()).to_pylist())
    ids, file = np.array(sorted(values), np.int64), f"vocabulary/{name}.parquet"
    edited(edits.prepare / file, edits.new(file), _without_names(ids))


def edit_tables_about_users(edits: Edits, manifest: Manifest, people: People) -> None:
    """Attributes and supplied vectors of the people are removed."""
    file, gone = "attributes/user.parquet", dict[str, Counter[int]]()
    if (edits.prepare / file).exists():

        def blank(table: pa.Table, first: int) -> pa.Table:
            theirs = _here(people.ids, first, len(table))
            for name in table.column_names:
                column = one_array(table[name])
                if name == c.ID:
                    continue
                if pa.types.is_list(column.type):
                    values = column.filter(pa.array(theirs)).flatten().to_pylist()
                    gone.setdefault(name, Counter()).update(values)
                    none = pa.array([[]], column.type).take(pa.array(np.zeros(len(table), int)))
                    column = pc.if_else(pa.array(theirs), none, column)
                else:
                    column = _null(column, theirs)
                table = _with_column(table, name, column)
            return table

        edited(edits.prepare / file, edits.new(file), blank)
    for name, counts in gone.items():
        vocabulary = f"vocabulary/user.{name}.parquet"
        edited(edits.prepare / vocabulary, edits.new(vocabulary), _fewer(counts))
    for name, width in manifest.user_vectors.items():
        matrix = vectors_of(edits.prepare, "user", name, manifest.users, width)
        for block in range(matrix.blocks):
            first, end = matrix.range_of(block)
            here = people.ids[(people.ids >= first) & (people.ids < end)] - first
            if len(here):
                values = np.array(matrix.block(block))
                values[here] = 0
                write_array(edits.new(f"vectors/{matrix.file(block).name}"), values)


def edit_rejected(edits: Edits, people: People) -> None:
    """Rejected rows of the people are removed."""
    for name in (edits.prepare / "rejected").children():
        file = edits.prepare / f"rejected/{name}"
        users = file.read_table([c.USER])[c.USER]
        if people.among(users).any():
            table = file.read_table()
            kept = table.filter(pa.array(~people.among(users)))
            edits.new(f"rejected/{name}").write_table(kept)


def _here(ids: Ints, first: int, rows: int) -> Bools:
    """[rows] whether the row of an id ``first`` + 1 … is that of one of ``ids``."""
    return contains(ids, np.arange(first + 1, first + rows + 1))


def _null(column: pa.Array | pa.ChunkedArray, theirs: Bools) -> pa.Array:
    array = one_array(column)
    return pc.if_else(pa.array(theirs), pa.scalar(None, array.type), array)


def _with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), column)


def _without_names(ids: Ints) -> Any:
    def edit(table: pa.Table, first: int) -> pa.Table:
        gone = _here(ids, first, len(table))
        return _with_column(table, c.EXTERNAL_ID, _null(table[c.EXTERNAL_ID], gone))

    return edit


def _fewer(gone: Counter[int]) -> Any:
    """Counts go down; values that are left nowhere lose their names."""

    def edit(table: pa.Table, first: int) -> pa.Table:
        count = table[c.COUNT].to_numpy().copy()
        less = np.array([gone[first + 1 + i] for i in range(len(table))], np.int64)
        left = count - less
        names = _null(table[c.EXTERNAL_ID], (less > 0) & (left <= 0))
        table = _with_column(table, c.EXTERNAL_ID, names)
        return _with_column(table, c.COUNT, pa.array(np.maximum(left, 0)))

    return edit


def mentions(text: str, people: People) -> bool:
    """Whether a sentence names one of the people, as warnings and examples do: user 'ann', or user
    ann."""
    found = re.findall(r"user '([^']*)'|user ([^ ,']+)", text)
    return bool(found) and bool(people.among(pa.array([a or b for a, b in found])).any())


def without_mentions(value: Any, people: People) -> Any:
    """A value of a JSON file without the sentences in lists that name one of the people."""
    if isinstance(value, dict):
        return {key: without_mentions(one, people) for key, one in value.items()}
    if isinstance(value, list):
        kept = (v for v in value if not (isinstance(v, str) and mentions(v, people)))
        return [without_mentions(one, people) for one in kept]
    return value
