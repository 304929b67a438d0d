"""Prepared data of any shape, written without the prepare stage, and random shapes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from p5dist.data import columns as c
from p5dist.data.jagged import Jagged
from p5dist.data.manifest import Manifest, ShardFile
from p5dist.storage import Folder


@dataclass(frozen=True)
class Row:
    """A history as it lies in a shard."""

    continues: bool
    items: tuple[int, ...]
    splits: tuple[int, ...]


UserRows = tuple[Row, ...]
Shards = Sequence[Sequence[UserRows]]


def sessions_of(rows: UserRows) -> list[list[tuple[int, int]]]:
    """(item, split) of the interactions of each session of a user."""
    found: list[list[tuple[int, int]]] = []
    for number, row in enumerate(rows):
        if number == 0 or not row.continues:
            found.append([])
        found[-1] += zip(row.items, row.splits, strict=True)
    return found


def whole(rows: UserRows) -> list[tuple[int, int]]:
    """(item, split) of all interactions of a user."""
    return [pair for session in sessions_of(rows) for pair in session]


def write(folder: Path, shards: Shards, *, items: int, group_rows: int) -> tuple[Folder, Manifest]:
    """Users are numbered from 1 through all shards; the rating of an interaction is its item, its
    time its number in the shard, its event 1 + item mod 2."""
    prepare = Folder.open(str(folder))
    files, first_row, user = [], 0, 0
    everything: list[tuple[int, int, int]] = []
    for number, users in enumerate(shards):
        columns: dict[str, list] = {name: [] for name in c.shard_schema().names}
        time = 0
        for rows in users:
            user += 1
            for row in rows:
                n = len(row.items)
                columns[c.USER].append(user)
                columns[c.ITEM].append(list(row.items))
                columns[c.TIMESTAMP].append(list(range(time, time + n)))
                columns[c.EVENT].append([1 + item % 2 for item in row.items])
                columns[c.RATING].append([float(item) for item in row.items])
                columns[c.SPLIT].append(list(row.splits))
                columns[c.CONTINUES].append(row.continues)
                time += n
                everything += [(user, i, s) for i, s in zip(row.items, row.splits, strict=True)]
        if not columns[c.USER]:
            continue
        table = pa.table(columns, schema=c.shard_schema())
        path = f"shards/part-{number:05d}.parquet"
        (prepare / path).write_table(table, row_group_size=group_rows)
        metadata = pq.read_metadata((prepare / path).path)
        groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        size = (prepare / path).size()
        assert size is not None
        files.append(ShardFile(path=path, bytes=size, first_row=first_row, groups=groups))
        first_row += len(table)
    counts = np.bincount([i for _, i, s in everything if s == c.TRAIN], minlength=items + 1)[1:]
    for side, number, count in (("item", items, counts), ("user", user, np.zeros(user))):
        ids = np.arange(1, number + 1)
        names = [f"{side[0]}{i}" for i in ids]
        table = pa.table([ids, names, count.astype(np.int64)], schema=c.VOCABULARY)
        (prepare / f"vocabulary/{side}.parquet").write_table(table)
    manifest = Manifest(
        fingerprint="written",
        shards=tuple(files),
        rows_in=len(everything),
        rows_kept=len(everything),
        rows_rejected={},
        rows_by_split={n: sum(s == k for *_, s in everything) for n, k in c.SPLIT_CODES.items()},
        users=user,
        users_by_split={
            name: len({u for u, _, s in everything if s == code})
            for name, code in c.SPLIT_CODES.items()
        },
        items=items,
        events={"view": 1.0, "buy": 1.0},
        longest_history=max((len(r.items) for s in shards for u in s for r in u), default=0),
        rating_mean=3.0,
        rating_range=(1.0, float(items)),
        split="by chance",
    )
    manifest.save(prepare)
    return prepare, manifest


def lists_of(jagged: Jagged) -> list[list[int]]:
    """As plain lists."""
    ends = zip(jagged.offsets, jagged.offsets[1:], strict=False)
    return [jagged.values[a:b].tolist() for a, b in ends]


@st.composite
def random_shards(
    draw: st.DrawFn, *, items: int = 6, sessions: bool = True, time_split: bool = False
) -> Shards:
    """One to three shards of up to five users with up to five rows each.

    Args:
        sessions: a user may have several; else all rows of a user are windows of one history.
        time_split: splits rise with time inside a user.
    """

    def one_user() -> UserRows:
        rows = []
        splits: list[int] = []
        lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
        drawn = draw(st.lists(st.integers(0, 2), min_size=sum(lengths), max_size=sum(lengths)))
        splits = sorted(drawn) if time_split else drawn
        for number, n in enumerate(lengths):
            own = draw(st.lists(st.integers(1, items), min_size=n, max_size=n))
            continues = number > 0 and (not sessions or draw(st.booleans()))
            rows.append(Row(continues, tuple(own), tuple(splits[:n])))
            splits = splits[n:]
        return tuple(rows)

    return [
        [one_user() for _ in range(draw(st.integers(1, 5)))] for _ in range(draw(st.integers(1, 3)))
    ]


def as_windows(shards: Shards, size: int) -> Shards:
    """The same users with every session cut into windows of ``size``; 0: not cut."""
    cut = []
    for users in shards:
        cut.append([])
        for rows in users:
            new: list[Row] = []
            for session in sessions_of(rows):
                step = size or len(session)
                for start in range(0, len(session), step):
                    items, splits = zip(*session[start : start + step], strict=True)
                    new.append(Row(start > 0, items, splits))
            cut[-1].append(tuple(new))
    return cut
