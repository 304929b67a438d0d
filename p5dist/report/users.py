"""A few users for the report page: the end of their history, and their recommendations.

Only the row groups with these users and items are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.inference.lists.inputs import NEW_PEOPLE
from p5dist.storage import Folder, RunFolder

TAIL = 10  # interactions shown
LIST = 10  # recommendations shown


@dataclass(frozen=True)
class Target:
    """Evaluation of a held-out interaction; None if the evaluation has no rank or rating of it."""

    rank: int | None = None
    predicted: float | None = None
    """Predicted rating."""


@dataclass(frozen=True)
class Interaction:
    """One line of a history."""

    title: str
    day: str | None
    rating: float | None
    held_out: bool
    target: Target
    """Evaluation of the interaction, if it is held out."""


@dataclass(frozen=True)
class Recommended:
    """One line of a list of recommendations."""

    rank: int
    title: str
    score: float
    held_out: bool
    because: list[tuple[str, float]]
    """Titles of the interactions that brought the item about, and their shares; empty where the run
    explains nothing."""
    attributes: list[tuple[str, float]]
    """Attributes of the item that add to its score, and their shares."""


@dataclass(frozen=True)
class ShownUser:
    """One user; ids as in the raw log."""

    user: str
    length: int
    history: list[Interaction]
    """The last TAIL interactions, the latest last."""
    recommended: list[Recommended]


def shown_users(job: RunConfig, folder: RunFolder, manifest: Manifest) -> list[ShownUser]:
    """At most ``job.report.users`` users, drawn with the job's seed."""
    histories = _drawn(job, folder, manifest)
    if not len(histories):
        return []
    users = take_rows(
        folder.prepare / "vocabulary/user.parquet", histories.user - 1, [c.EXTERNAL_ID]
    )[c.EXTERNAL_ID].to_pylist()
    split = c.SPLIT_CODES["test" if job.evaluate is None else job.evaluate.split]
    tail, hidden = histories.last(TAIL), histories.where(histories.split == split)
    _, titles = item_names(folder.prepare, tail.item)
    hidden_ids, _ = item_names(folder.prepare, hidden.item)
    lines = _history_lines(
        tail,
        titles,
        tail.split == split,
        _targets(folder.evaluate, tail.user),
        timed=job.prepare.source.columns.timestamp is not None,
    )
    lists = _lists(folder.recommend, users)
    known: dict[str, str] = {}
    if any(line.get(c.REASONS) for line in lists):
        known = dict(zip(*item_names(folder.prepare, np.unique(histories.item)), strict=True))
    shown = []
    for i, user in enumerate(users):
        mine = slice(tail.offsets[i], tail.offsets[i + 1])
        held_out = set(hidden_ids[hidden.offsets[i] : hidden.offsets[i + 1]])
        recommended = [
            Recommended(
                line[c.RANK], line[c.TITLE] or line[c.ITEM_ID], line[c.SCORE],
                line[c.ITEM_ID] in held_out,
                [(known.get(r[c.ITEM_ID], r[c.ITEM_ID]), r["share"])
                 for r in line.get(c.REASONS) or ()],
                [(a["attribute"], a["share"]) for a in line.get(c.ATTRIBUTES) or ()],
            )
            for line in lists
            if line[c.USER_ID] == user
        ]  # fmt: skip
        shown.append(ShownUser(user, int(histories.lengths[i]), lines[mine], recommended))
    return shown


def take_rows(file: Folder, rows: Ints, columns: list[str] | None = None) -> pa.Table:
    """Rows ``rows`` of a Parquet file in this order; only their row groups are read."""
    with pq.ParquetFile(file.path, filesystem=file.fs) as parquet:
        metadata = parquet.metadata
        sizes = np.array([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
        first = np.concatenate([[0], np.cumsum(sizes)])
        group = np.searchsorted(first, rows, side="right") - 1
        needed = np.unique(group)
        table = parquet.read_row_groups(needed.tolist(), columns=columns)
    start = np.zeros(len(first), dtype=np.int64)
    start[needed] = np.cumsum(sizes[needed]) - sizes[needed]
    return table.take(start[group] + rows - first[group])


def _drawn(job: RunConfig, folder: RunFolder, manifest: Manifest) -> Histories:
    """Whole users of rows drawn with the job's seed."""
    wanted = 0 if job.report is None else min(job.report.users, manifest.histories)
    if not wanted:
        return Histories.empty()
    generator = np.random.default_rng(job.seed)
    rows = np.sort(generator.choice(manifest.histories, wanted, replace=False))
    reader = ShardReader(folder.prepare, manifest, (c.TIMESTAMP, c.RATING))
    users = Histories.concat([reader.user_at(int(row)).histories for row in rows])
    _, first = np.unique(users.user, return_index=True)
    return users.take(np.sort(first))


def item_names(prepare: Folder, items: Ints) -> tuple[list[str], list[str]]:
    """External ids and titles of items [n]; the external id for an item without title."""
    ids = take_rows(prepare / "vocabulary/item.parquet", items - 1, [c.EXTERNAL_ID])
    external = ids[c.EXTERNAL_ID]
    table = prepare / "attributes/item.parquet"
    if not table.exists() or c.TITLE not in pq.read_schema(table.path, filesystem=table.fs).names:
        return external.to_pylist(), external.to_pylist()
    titles = take_rows(table, items - 1, [c.TITLE])[c.TITLE]
    return external.to_pylist(), pc.coalesce(titles, external).to_pylist()


def _history_lines(
    tail: Histories,
    titles: list[str],
    held_out: npt.NDArray[np.bool_],
    targets: dict[tuple[int, int], Target],
    *,
    timed: bool,
) -> list[Interaction]:
    """[T] one line for each interaction of ``tail``."""
    users, no_target = tail.user[tail.owner()], Target()
    return [
        Interaction(
            title=titles[j],
            day=_day(int(tail.timestamp[j])) if timed else None,
            rating=float(tail.rating[j]) if np.isfinite(tail.rating[j]) else None,
            held_out=bool(held_out[j]),
            target=targets.get((int(users[j]), int(tail.item[j])), no_target)
            if held_out[j]
            else no_target,
        )
        for j in range(len(tail.item))
    ]


def _lists(recommend: Folder, users: list[str]) -> list[dict[str, Any]]:
    """The rows of the lists of these users up to rank LIST, by rank."""
    parts = [n for n in recommend.children() if n.endswith(".parquet")]
    result = recommend / "result.json"
    if not result.exists() or not parts or result.read_json().get("lists_for") == NEW_PEOPLE:
        return []  # new people may have the external ids of users
    lists = ds.dataset([(recommend / n).path for n in parts], filesystem=recommend.fs)
    mine = ds.field(c.USER_ID).isin(users) & (ds.field(c.RANK) <= LIST)
    return list(lists.to_table(filter=mine).sort_by(c.RANK).to_pylist())


def _targets(evaluate: Folder, users: npt.NDArray[np.int64]) -> dict[tuple[int, int], Target]:
    """Evaluation of the held-out items of these users, by internal (user, item)."""
    file = evaluate / "targets.parquet"
    if not (evaluate / "result.json").exists() or not file.exists():
        return {}
    targets = ds.dataset(file.path, filesystem=file.fs)
    names = [n for n in (c.USER, c.ITEM, c.RANK, "predicted") if n in targets.schema.names]
    mine = targets.to_table(columns=names, filter=ds.field(c.USER).isin(pa.array(users)))
    return {
        (line[c.USER], line[c.ITEM]): Target(line.get(c.RANK), line.get("predicted"))
        for line in mine.to_pylist()
    }


def _day(timestamp: int) -> str:
    return f"{datetime.fromtimestamp(timestamp // c.SECOND, timezone.utc):%Y-%m-%d}"
