"""People who are not in the log: a table of their interactions → histories, of any size.

The table is read as the prepare stage reads a log (:mod:`p5dist.prepare.log_tasks`): tasks clean
ranges of the files and divide the rows by a hash of the person, further tasks sort each division by
person and time. Both go through files below ``recommend/scratch/``, so that memory follows the
size of a range or division. The rows of one person must fit into memory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.config import RunConfig
from p5dist.config.prepare import Prepare, Privacy
from p5dist.config.splits import LeaveOneOut
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Ints, offsets_of
from p5dist.data.reader import Portion
from p5dist.data.users import Users
from p5dist.environment.workers import Workers
from p5dist.errors import EmptyLogError
from p5dist.inference.items import ItemIds
from p5dist.inference.lists.inputs import HISTORIES
from p5dist.prepare import log_tasks
from p5dist.prepare.column_types import check_same
from p5dist.prepare.histories import build, over_length
from p5dist.prepare.interactions import Interactions
from p5dist.prepare.layout import Layout
from p5dist.prepare.rejects import Rejects, forms_of
from p5dist.prepare.sources import RANGE_BYTES, Inputs, cut_files, estimate_rows, find_files
from p5dist.prepare.values import as_text
from p5dist.storage import Folder

ROWS = 500_000
"""About so many interactions are in one portion."""
_SORTED = "sorted.json"


@dataclass(frozen=True)
class Shard:
    """A portion of the people."""

    rows: Interactions
    """In the order of person and time."""
    people: pa.StringArray
    """External ids, of the codes in ``rows``."""
    items: pa.StringArray
    events: pa.StringArray


@dataclass(frozen=True)
class NewPeople:
    """The sorted table."""

    stage: log_tasks.Stage
    interactions: tuple[int, ...]
    """Of each portion."""
    rejected: dict[str, int]
    """Rows of the table that are left out, by reason."""

    def portions(self) -> list[Portion]:
        """One for each division of the people that has any."""
        return [Portion(i, i, i + 1, n) for i, n in enumerate(self.interactions) if n]

    def users(self, portion: Portion) -> Shard:
        """The people of a portion."""
        scratch = self.stage.shard(portion.number)
        rows = Interactions.from_table(scratch.read_table("rows.arrow"))
        nothing = pa.array([], pa.string())
        return Shard(
            rows,
            as_text(scratch.read_column("users.arrow")),
            as_text(scratch.read_column("items.arrow")),
            scratch.read_column(f"{c.EVENT}.arrow") if c.EVENT in rows.coded else nothing,
        )


def sort_table(job: RunConfig, folder: Folder, workers: Workers) -> NewPeople:
    """Read and sort the table of ``recommend.histories``; what an interrupted run has finished is
    kept.

    Args:
        folder: its folder ``scratch`` is written to.

    Raises:
        DataError: a file cannot be read.
        EmptyLogError: no valid row.
    """
    assert job.recommend is not None and job.recommend.histories is not None
    source, pseudonyms = job.recommend.histories, job.prepare.privacy.pseudonyms
    layout = Layout.of_log(source, section=HISTORIES, pseudonyms=pseudonyms)
    found = Inputs(find_files(source.files, layout), [], [], [], [])
    layout = replace(layout, id_types=found.id_types)
    for ours, theirs in layout.columns.items():
        types = ((f.url, f.types[ours]) for f in found.log if ours in f.types)
        check_same(types, theirs, layout.knobs[ours])
    shards = 1 + estimate_rows(found.log, layout) // ROWS
    stage = log_tasks.Stage(_as_log(job), job.seed, shards, layout, folder)
    if not stage.scratch.has(_SORTED):
        _sort(stage, found, workers)
    return NewPeople(stage, **stage.scratch.read_json(_SORTED))


def _as_log(job: RunConfig) -> Prepare:
    """The rules of ``prepare`` for the rows of the table. Limits on times and on the number of
    interactions or users are about the log; cleaning is about single rows."""
    assert job.recommend is not None and job.recommend.histories is not None
    source, prepare = job.recommend.histories, job.prepare
    clean = prepare.clean.model_copy(
        update={"time_range": None, "max_user_interactions": None, "keep_rejected": False}
    )
    events = None if source.columns.event is None else prepare.events
    return prepare.model_copy(
        update={
            "source": source, "clean": clean, "events": events, "split": LeaveOneOut(),
            "privacy": Privacy(),
        }
    )  # fmt: skip


def _sort(stage: log_tasks.Stage, found: Inputs, workers: Workers) -> None:
    ranges = cut_files(found.log, stage.layout, RANGE_BYTES)
    shared = workers.share(stage)
    to_read = [(shared, part, number) for number, part in enumerate(ranges)]
    counts = dict(workers.results(log_tasks.read, to_read))
    rejects = Rejects()
    for number in range(len(ranges)):
        rejects.add(counts[number].rejected, counts[number].examples)
    if not any(count.kept for count in counts.values()):
        most = max(rejects.counts, key=rejects.counts.__getitem__, default="")
        raise EmptyLogError(
            "no valid interaction of new people", where=HISTORIES,
            value=f"{sum(n.rows for n in counts.values()):,} rows; rejected: {rejects}",
            rule=forms_of(most, stage.prepare.source) or "at least one row must be valid",
            fix=f"correct the files, or the columns of {HISTORIES}",
        )  # fmt: skip
    first = np.cumsum([0, *(counts[number].kept for number in range(len(ranges)))])
    before = workers.share([(c.TRAIN, int(n)) for n in first[:-1]])
    to_sort = [(shared, shard, before) for shard in range(stage.shards)]
    groups = dict(workers.results(log_tasks.group, to_sort))
    for group in groups.values():
        rejects.add(group.rejected)
    stage.scratch.write_json(
        _SORTED,
        {
            "interactions": [groups[shard].rows for shard in range(stage.shards)],
            "rejected": rejects.by_reason(),
        },
    )
    (stage.scratch / "read").folder.remove()


@dataclass(frozen=True)
class Counts:
    """Of some people."""

    users: int
    users_without_known_items: int = 0
    interactions: int = 0
    interactions_with_unknown_items: int = 0
    interactions_with_unknown_events: int = 0

    def as_json(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


def histories_of(
    shard: Shard, items: ItemIds, prepare: Prepare, events: tuple[str, ...]
) -> tuple[Users, Counts]:
    """Whole histories of all people of a portion, as the log would have them; interactions with
    unknown items are left out.

    Args:
        items: of the run.
        prepare: the section of the job.
        events: names of the events in the order of their codes from 1.
    """
    rows = shard.rows
    too_old = over_length(rows, prepare)
    if too_old is not None:
        rows = rows.take(~too_old)
    built = build(rows, prepare.model_copy(update={"split": LeaveOneOut()}), None)
    session = np.repeat(built.session, built.lengths)
    lengths = np.bincount(rows.user, minlength=len(shard.people))
    people = len(lengths)
    event, strange = _event_codes(shard, rows, events)
    total = len(rows)
    nothing = Histories.empty(people)
    everything = Histories(
        user=nothing.user,
        row=np.arange(people, dtype=np.int64),
        offsets=offsets_of(lengths),
        item=items.of_text(shard.items)[rows.item],
        timestamp=rows.time,
        event=event,
        rating=np.full(total, np.nan, np.float32) if rows.rating is None else rows.rating,
        split=np.zeros(total, dtype=np.int8),
    )
    known: Bools = everything.item > 0
    histories = everything.where(known)
    counts = Counts(
        people,
        int((histories.lengths == 0).sum()),
        total,
        int((~known).sum()),
        strange,
    )
    return Users(histories, session[known]), counts


def _event_codes(shard: Shard, rows: Interactions, events: tuple[str, ...]) -> tuple[Any, int]:
    """[n] codes of the log, and the number of interactions whose event the log does not have."""
    if c.EVENT not in rows.coded:
        return np.zeros(len(rows), dtype=np.int8), 0
    index = pc.fill_null(pc.index_in(shard.events, pa.array(events, pa.string())), -1)
    code: Ints = np.asarray(index).astype(np.int8) + np.int8(1)
    strange = (code == 0) & np.asarray(pc.not_equal(shard.events, ""))
    return code[rows.coded[c.EVENT]], int(strange[rows.coded[c.EVENT]].sum())
