"""Reads the shards of a prepared data set: row groups, or whole users.

This is the only code that opens a shard. A user may lie in several rows of a shard (sessions,
windows) and these may cross a row group; :meth:`ShardReader.users` puts them together again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Ints, Jagged, contains, offsets_of
from p5dist.data.manifest import Manifest
from p5dist.data.row_groups import RowGroups
from p5dist.data.users import Users
from p5dist.errors import ShardError
from p5dist.storage import Folder


@dataclass(frozen=True)
class Portion:
    """Consecutive row groups: the users that begin in them are one task's work."""

    number: int
    first: int
    end: int
    """Row groups ``first`` … ``end - 1`` of the data set."""
    rows: int
    """Histories in these row groups."""


@dataclass(frozen=True)
class ShardReader:
    """Reads histories.

    Args:
        prepare: the prepare folder.
        manifest: of the data set; whether its shards are whole was checked before.
        columns: columns of the histories beside user, item and split.
        first_row: row number of the first history, where several data sets are mixed.
    """

    prepare: Folder
    manifest: Manifest
    columns: tuple[str, ...] = ()
    first_row: int = 0

    @cached_property
    def groups(self) -> RowGroups:
        """All row groups."""
        return RowGroups.of(self.manifest, self.first_row)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "groups"}

    @property
    def users_span_rows(self) -> bool:
        """Whether a user may have several rows."""
        return self.manifest.histories > self.manifest.users

    def group(self, number: int) -> Histories:
        """The histories of one row group.

        Raises:
            ShardError: the shard cannot be read.
        """
        return self._histories(self._read(number, [c.USER, c.ITEM, c.SPLIT, *self.columns]), number)

    def group_column(self, number: int, name: str) -> Ints:
        """[rows] a column of one row group that has a number for each history.

        Raises:
            ShardError: the shard cannot be read.
        """
        values: Ints = self._read(number, [name])[name].to_numpy()
        return values

    def training_items(self, number: int, rows: Histories) -> tuple[Jagged, Ints]:
        """The distinct training items of every user in a row group, from all rows of the user; and
        [rows] the index of each row's user.

        Args:
            rows: the result of :meth:`group`.
        """
        parts = [rows]
        if self.users_span_rows:
            before = after = number
            while self._begins_before(before, int(rows.user[0])):
                before -= 1
                part = self.group(before)
                parts.insert(0, part.take(np.flatnonzero(part.user == rows.user[0])))
            while (after := after + 1) < len(self.groups) and (
                self.groups.shard[after] == self.groups.shard[number]
            ):
                part = self.group(after)
                mine = _leading(part, int(rows.user[-1]))
                parts.append(part.between(0, mine))
                if mine < len(part):
                    break
        users, of = np.unique(rows.user, return_inverse=True)
        near = Histories.concat(parts).training()
        near = near.take(np.flatnonzero(contains(users, near.user)))
        catalogue = self.manifest.items + 1
        key = np.unique(np.searchsorted(users, near.user)[near.owner()] * catalogue + near.item)
        owner, item = np.divmod(key, catalogue)
        return Jagged(offsets_of(np.bincount(owner, minlength=len(users))), item), of

    def portions(self, rows: int) -> list[Portion]:
        """All row groups in portions of at least ``rows`` histories (the last may be smaller), in
        the order of the data."""
        ends: list[int] = [0]
        size = 0
        for number, count in enumerate(self.groups.rows.tolist()):
            size += count
            if size >= rows or number == len(self.groups) - 1:
                ends.append(number + 1)
                size = 0
        total = np.concatenate([[0], np.cumsum(self.groups.rows)])
        return [
            Portion(number, first, end, int(total[end] - total[first]))
            for number, (first, end) in enumerate(pairwise(ends))
        ]

    def users(self, portion: Portion) -> Users:
        """All users whose first row is in the portion, with every interaction that they have.

        Raises:
            ShardError: a shard cannot be read.
        """
        parts = [
            part
            for first, end in self._by_shard(portion)
            for part in self._rows_of_users(first, end)
        ]
        if not parts:
            return Users.join(Histories.empty(), np.zeros(0, dtype=bool))
        continues = np.concatenate([flags for _, flags in parts])
        return Users.join(Histories.concat([rows for rows, _ in parts]), continues)

    def user_at(self, row: int) -> Users:
        """The one user that has the row number ``row``."""
        number = int(np.searchsorted(self.groups.first_row, row, side="right")) - 1
        user = self.group(number).user[row - self.groups.first_row[number]]
        while self._begins_before(number, int(user)):
            number -= 1
        found = self.users(Portion(0, number, number + 1, int(self.groups.rows[number])))
        return found.take(np.flatnonzero(found.histories.user == user))

    def _by_shard(self, portion: Portion) -> Iterator[tuple[int, int]]:
        """First and end of the row groups of each shard in the portion."""
        shard = self.groups.shard[portion.first : portion.end]
        edges = np.flatnonzero(np.diff(shard, prepend=-1, append=-1)) + portion.first
        yield from pairwise(edges.tolist())

    def _rows_of_users(self, first: int, end: int) -> list[tuple[Histories, Bools]]:
        """Rows of the users that begin in row groups ``first`` … ``end - 1`` of one shard, and
        whether each row continues the session of the row before it."""
        parts = [self._group_with_sessions(number) for number in range(first, end)]
        if not self.users_span_rows:
            return parts
        user = int(parts[0][0].user[0])
        if self._begins_before(first, user):
            while parts and (n := _leading(parts[0][0], user)):
                rows, flags = parts.pop(0)
                if n < len(rows):
                    parts.insert(0, (rows.between(n, len(rows)), flags[n:]))
        if not parts:
            return []
        user = int(parts[-1][0].user[-1])
        while end < len(self.groups) and self.groups.shard[end] == self.groups.shard[first]:
            rows, flags = self._group_with_sessions(end)
            n = _leading(rows, user)
            parts.append((rows.between(0, n), flags[:n]))
            if n < len(rows):
                break
            end += 1
        return parts

    def _begins_before(self, number: int, user: int) -> bool:
        """Whether ``user``, in row group ``number``, has rows in the group before it."""
        before = number - 1
        if before < 0 or self.groups.shard[before] != self.groups.shard[number]:
            return False
        return int(self._read(before, [c.USER])[c.USER][-1].as_py()) == user

    def _group_with_sessions(self, number: int) -> tuple[Histories, Bools]:
        table = self._read(number, [c.USER, c.ITEM, c.SPLIT, c.CONTINUES, *self.columns])
        flags = table[c.CONTINUES].to_numpy(zero_copy_only=False)
        return self._histories(table, number), flags

    def _histories(self, table: pa.Table, number: int) -> Histories:
        row: Ints = self.groups.first_row[number] + np.arange(len(table))
        return Histories.from_table(table, row)

    def _read(self, number: int, columns: list[str]) -> pa.Table:
        shard = self.manifest.shards[int(self.groups.shard[number])]
        group = int(self.groups.in_shard[number])
        file = self.prepare / shard.path
        try:
            with pq.ParquetFile(file.path, filesystem=file.fs, pre_buffer=True) as opened:
                return opened.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as e:
            raise ShardError(
                "a shard cannot be read", where=f"{file}, row group {group}",
                value=(str(e).strip() or repr(e)).splitlines()[0],
                fix="restore the file, or run the prepare stage again with --fresh",
            ) from e  # fmt: skip


def _leading(rows: Histories, user: int) -> int:
    """Rows at the beginning that are of ``user``."""
    others = np.flatnonzero(rows.user != user)
    return int(others[0]) if len(others) else len(rows)
