"""All interactions of a shard's users in the order of time, and those that repeat or come from
bots.

A shard holds the users whose hash is its number (modulo the number of shards), in the order of
(hash, external id).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config.prepare import Clean, Prepare
from p5dist.data import columns as c
from p5dist.data.jagged import Array, Bools, Ints
from p5dist.data.randomness import UInts, splitmix
from p5dist.prepare.arrays import Codes, Ids, encode, hash_ids, stable_order
from p5dist.prepare.cleaning import RAW, USER_REASONS

ROW = "row"
PART = "part"
TRAINED = "trained"
"""Column: whether the runs that this one continues trained on the interaction."""

Floats = npt.NDArray[np.float32]
_SAMPLED_USERS = 1000


@dataclass(frozen=True)
class Interactions:
    """[n] interactions sorted by (user, time), ties in the order of the log or shuffled."""

    user: Codes
    """Index into :attr:`Names.users`, rising."""
    item: Codes
    """Index into :attr:`Names.items`."""
    time: Ints
    """Microseconds; the number of the row where the log has no time."""
    rating: Floats | None
    part: npt.NDArray[np.int8] | None
    """Split code of the files that it comes from, of a given split."""
    coded: Mapping[str, Codes]
    """Event and context: index into :attr:`Names.coded`."""
    raw: pa.Table | None
    """Fields as they were read, with clean.keep_rejected."""
    trained: Bools | None = None
    """Whether the runs that this one continues trained on it."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: Array) -> Interactions:
        """Those at ``index`` (places, or a mask)."""

        def some(values: Any) -> Any:
            return None if values is None else values[index]

        raw = self.raw
        if raw is not None:
            raw = raw.filter(pa.array(index)) if index.dtype == np.bool_ else raw.take(index)
        return Interactions(
            self.user[index], self.item[index], self.time[index], some(self.rating),
            some(self.part), {name: codes[index] for name, codes in self.coded.items()}, raw,
            some(self.trained),
        )  # fmt: skip

    def tied(self) -> Bools:
        """[n] whether user and time equal user and time of the preceding interaction."""
        same = np.zeros(len(self), np.bool_)
        same[1:] = (self.user[1:] == self.user[:-1]) & (self.time[1:] == self.time[:-1])
        return same

    def to_table(self) -> pa.Table:
        columns = {c.USER: self.user, c.ITEM: self.item, c.TIMESTAMP: self.time}
        if self.rating is not None:
            columns[c.RATING] = self.rating
        if self.part is not None:
            columns[PART] = self.part
        if self.trained is not None:
            columns[TRAINED] = self.trained
        table = pa.table(columns | dict(self.coded))
        if self.raw is not None:
            table = table.append_column(RAW, self.raw[RAW])
        return table

    @classmethod
    def from_table(cls, table: pa.Table) -> Interactions:
        """Columns that are not there stay None."""

        def array(name: str) -> Any:
            return table[name].to_numpy() if name in table.column_names else None

        coded = [n for n in table.column_names if n == c.EVENT or n.startswith(c.CONTEXT)]
        return cls(
            array(c.USER), array(c.ITEM), array(c.TIMESTAMP), array(c.RATING), array(PART),
            {name: array(name) for name in coded},
            table.select([RAW]) if RAW in table.column_names else None, array(TRAINED),
        )  # fmt: skip


@dataclass(frozen=True)
class Names:
    """The values of the codes of a shard."""

    users: Ids
    """In the order of (hash, external id)."""
    items: Ids
    coded: Mapping[str, pa.StringArray]


def sort(
    rows: pa.Table, prepare: Prepare, seed: int
) -> tuple[Interactions, Names, tuple[int, int]]:
    """Cleaned rows of a shard in the order of the log → interactions in the order of time. Also
    returns, for a sample of users, the number of out-of-order interactions and of all interactions.

    Args:
        rows: see :mod:`.cleaning`, with PART for a given split, and ROW (numbers of the rows)
            where the log has no time.
        prepare: the section of the job.
        seed: of ``ties: shuffled``.
    """
    users, user = encode(rows[c.USER])
    hashes = hash_ids(users)
    by_hash = np.lexsort((np.argsort(_id_rank(users)), hashes))
    position = np.empty(len(users), np.int32)
    position[by_hash] = np.arange(len(users), dtype=np.int32)
    items, item = encode(rows[c.ITEM])
    time = rows[c.TIMESTAMP if c.TIMESTAMP in rows.column_names else ROW].to_numpy()
    coded = {
        name: encode(rows[name])
        for name in rows.column_names
        if name == c.EVENT or name.startswith(c.CONTEXT)
    }
    rating = None
    if c.RATING in rows.column_names:
        rating = rows[c.RATING].to_numpy() + np.float32(0)  # -0.0 becomes 0.0
    found = Interactions(
        user=position[user],
        item=item,
        time=time,
        rating=rating,
        part=rows[PART].to_numpy() if PART in rows.column_names else None,
        coded={name: codes for name, (_, codes) in coded.items()},
        raw=rows.select([RAW]) if RAW in rows.column_names else None,
        trained=rows[TRAINED].to_numpy() if TRAINED in rows.column_names else None,
    )
    keys: list[Any] = [found.time, found.user]
    if prepare.ties == "shuffled":
        keys.insert(0, _shuffle_key(hashes[user], hash_ids(items)[item], seed))
    names = Names(users.take(pa.array(by_hash)), items, {n: v for n, (v, _) in coded.items()})
    return found.take(stable_order(*keys)), names, _backwards(user, time)


def _backwards(user: Codes, time: Ints) -> tuple[int, int]:
    """See :func:`sort`; in the order of the log, users by first sight."""
    mine = np.flatnonzero(user < _SAMPLED_USERS)
    mine = mine[stable_order(user[mine])]
    user, time = user[mine], time[mine]
    back = (user[1:] == user[:-1]) & (time[1:] < time[:-1])
    return int(back.sum()), len(user)


def judge(rows: Interactions, clean: Clean, oldest: int | None = None) -> npt.NDArray[np.int8]:
    """[n] 0, or 1 + the position in USER_REASONS of why an interaction is dropped.

    Args:
        oldest: time before which interactions are dropped (microseconds); None: never.
    """
    reason = np.zeros(len(rows), np.int8)
    if oldest is not None:
        reason[rows.time < oldest] = 1 + USER_REASONS.index("expired")
    if clean.duplicates == "drop":
        reason[(reason == 0) & _duplicates(rows)] = 1 + USER_REASONS.index("duplicate")
    if clean.repeat_window is not None:
        repeats = _repeats(rows, clean.repeat_window)
        if rows.trained is not None:
            repeats &= ~rows.trained
        reason[(reason == 0) & repeats] = 1 + USER_REASONS.index("repeat")
    if clean.max_user_interactions is not None:
        counted = reason == 0
        if rows.trained is not None:  # what earlier runs have judged stays
            counted &= ~rows.trained
        counts = np.bincount(rows.user[counted], minlength=int(rows.user.max(initial=-1)) + 1)
        many = (counts > clean.max_user_interactions)[rows.user] & counted
        reason[(reason == 0) & many] = 1 + USER_REASONS.index("bot")
    return reason


def without_unused_items(rows: Interactions, items: Ids) -> tuple[Interactions, Ids]:
    """The rows, and the items that they have: other items are no part of the log that is left, and
    must not decide how ids are ordered."""
    used = np.bincount(rows.item, minlength=len(items)) > 0
    code = (np.cumsum(used) - 1).astype(np.int32)
    return replace(rows, item=code[rows.item]), items.filter(pa.array(used))


def users_of_items(user: Codes, item: Codes, items: int) -> Ints:
    """[items] how many users have interacted with each item."""
    pairs = np.unique(user.astype(np.int64) * items + item)
    return np.bincount(pairs % max(items, 1), minlength=items)


def leaked(rows: Interactions) -> int:
    """How many (user, item, time) of the validation and test files are in others as well."""
    if rows.part is None:
        return 0
    index, run = _tied_runs(rows)
    item, part = rows.item[index], rows.part[index]
    order = np.lexsort((part, item, run))
    item, part, run = item[order], part[order], run[order]
    same = (item[1:] == item[:-1]) & (run[1:] == run[:-1])
    return int((same & (part[1:] > part[:-1])).sum())


def tied_rising(rows: Interactions, rank: Ints) -> int:
    """Interactions at the time of the one before whose item has the larger ``rank`` of the two."""
    tied = np.flatnonzero(rows.tied())
    return int((rank[rows.item[tied]] > rank[rows.item[tied - 1]]).sum())


def rejected(rows: Interactions, reason: npt.NDArray[np.int8]) -> pa.Table:
    """columns.REJECTED of the interactions with a reason; empty without clean.keep_rejected."""
    if rows.raw is None:
        return c.REJECTED.empty_table()
    bad = reason != 0
    names = pa.array(["", *USER_REASONS]).take(pa.array(reason[bad]))
    raw = rows.raw.filter(pa.array(bad))[RAW].combine_chunks()
    fields = [pc.struct_field(raw, name) for name in c.REJECTED.names[:-1]]
    return pa.table([*fields, names], schema=c.REJECTED)


def _duplicates(rows: Interactions) -> Bools:
    """[n] whether an earlier row of the same part repeats in every field."""
    found = np.zeros(len(rows), np.bool_)
    index, run = _tied_runs(rows)
    keys: list[Any] = [codes[index] for codes in (*rows.coded.values(), rows.item)]
    if rows.part is not None:
        keys.append(rows.part[index])
    if rows.rating is not None:
        rating = rows.rating[index]
        keys.append(np.where(np.isnan(rating), np.float32(np.nan), rating).view(np.int32))
    keys.append(run)
    order = stable_order(*keys)
    repeats = np.ones(max(len(index) - 1, 0), np.bool_)
    for key in keys:
        repeats &= key[order][1:] == key[order][:-1]
    found[index[order][1:][repeats]] = True
    return found


def _repeats(rows: Interactions, window: int) -> Bools:
    """[n] whether user, item and event were there at most ``window`` seconds before."""
    event = rows.coded.get(c.EVENT)
    kind = [rows.item] if event is None else [event, rows.item]
    order = stable_order(*kind, rows.user)
    close = np.diff(rows.time[order]) <= window * c.SECOND
    for key in (*kind, rows.user):
        close &= key[order][1:] == key[order][:-1]
    found = np.zeros(len(rows), np.bool_)
    found[order[1:][close]] = True
    return found


def _tied_runs(rows: Interactions) -> tuple[Ints, Ints]:
    """Rows that share user and time with another one, and the number of the run each is in."""
    tied = rows.tied()
    index: Ints = np.flatnonzero(tied | np.append(tied[1:], False)[: len(tied)])
    return index, np.cumsum(~tied, dtype=np.int64)[index]


def _id_rank(ids: Ids) -> Ints:
    """[n] indices that sort ids by their bytes or numbers, which decides between equal hashes."""
    return np.asarray(pc.sort_indices(ids)).astype(np.int64)


def _shuffle_key(user: UInts, item: UInts, seed: int) -> Ints:
    start = splitmix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    return splitmix(user ^ splitmix(item ^ start)).view(np.int64)
