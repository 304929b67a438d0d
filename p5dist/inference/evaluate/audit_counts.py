"""Counts for the protocol audit, over portions of whole users; counts of portions add up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Ints, contains
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import hashed
from p5dist.data.users import Users
from p5dist.prepare.arrays import id_order, one_array
from p5dist.ranking.targets import Rule, Targets
from p5dist.storage import RunFolder

DAY = 86_400 * c.SECOND
_EXAMPLES = 3

Key = TypeVar("Key", int, str)
Example = tuple[int, int, int]
"""Internal user, internal item, microseconds."""


@dataclass(frozen=True)
class Known:
    """What the audit knows about the data beside its histories."""

    timed: bool
    """Whether the log has times; without them, timestamps are row numbers."""
    trained: Bools
    """[items + 1] whether an item id has a training interaction"""
    order: Ints
    """[items + 1] place of an item id in the order of the external ids"""


def known_of(job: RunConfig, folder: RunFolder, manifest: Manifest) -> Known:
    """What :meth:`AuditCounts.of` needs to know about the data."""
    table = (folder.prepare / "vocabulary/item.parquet").read_table([c.EXTERNAL_ID, c.COUNT])
    order = np.zeros(manifest.items + 1, dtype=np.int64)
    names = one_array(table[c.EXTERNAL_ID].fill_null(""))
    order[1 + id_order(names)] = np.arange(1, len(names) + 1)
    trained = np.append(False, table[c.COUNT].to_numpy() > 0)
    return Known(job.prepare.source.columns.timestamp is not None, trained, order)


@dataclass(frozen=True)
class AuditCounts:
    """Counts over some users; the names are those of :mod:`.protocol_audit`."""

    numbers: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    train_days: Mapping[int, int] = field(default_factory=dict)
    """Training interactions by days since 1970."""
    last_train: int | None = None
    """Time of the latest training interaction."""
    first_target: int | None = None
    """Time of the earliest target."""

    @classmethod
    def of(cls, users: Users, rule: Rule, known: Known) -> AuditCounts:
        """The counts of whole users (with their timestamps)."""
        targets = Targets.find(users, rule)
        made = _Counting()
        train = users.histories.timestamp[users.histories.split == c.TRAIN]
        _count_users(made, users.histories, rule)
        if len(targets):
            _count_targets(made, targets, known)
        _count_order(made, targets.known, known)
        day, count = np.unique(train // DAY if known.timed else train[:0], return_counts=True)
        times = targets.everything.timestamp[targets.at]
        return cls(
            made.numbers,
            {name: tuple(found) for name, found in made.examples.items()},
            dict(zip(day.tolist(), count.tolist(), strict=True)),
            int(train.max()) if len(train) else None,
            int(times.min()) if len(times) else None,
        )

    def merge(self, other: AuditCounts) -> AuditCounts:
        """The counts of the users of both."""
        last = [t for t in (self.last_train, other.last_train) if t is not None]
        first = [t for t in (self.first_target, other.first_target) if t is not None]
        names = {**self.examples, **other.examples}
        return AuditCounts(
            _added(self.numbers, other.numbers),
            {
                name: (self.examples.get(name, ()) + other.examples.get(name, ()))[:_EXAMPLES]
                for name in names
            },
            _added(self.train_days, other.train_days),
            max(last, default=None),
            min(first, default=None),
        )

    def to_json(self) -> str:
        """The counts as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AuditCounts:
        """The inverse of :meth:`to_json`."""
        values = json.loads(text)
        values["examples"] = {
            name: tuple(map(tuple, found)) for name, found in values["examples"].items()
        }
        values["train_days"] = {int(day): n for day, n in values["train_days"].items()}
        return cls(**values)

    def number(self, name: str) -> int:
        """A count; 0 if nothing was counted under the name."""
        return self.numbers.get(name, 0)


class _Counting:
    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.examples: dict[str, list[Example]] = {}

    def add(self, name: str, number: int) -> None:
        self.numbers[name] = self.numbers.get(name, 0) + int(number)

    def mark(self, name: str, found: Bools, user: Ints, item: Ints, time: Ints) -> None:
        """Count the targets that are ``found`` [M], and keep the first ones as examples."""
        self.add(name, int(found.sum()))
        at = np.flatnonzero(found)[:_EXAMPLES]
        rows = zip(user[at].tolist(), item[at].tolist(), time[at].tolist(), strict=True)
        self.examples.setdefault(name, []).extend(rows)


def _count_users(made: _Counting, everyone: Histories, rule: Rule) -> None:
    """Users with interactions of the split, and those of them that training has never seen."""
    size = len(everyone)
    owner = everyone.owner()
    held = np.bincount(owner[everyone.split == rule.split], minlength=size) > 0
    train = np.bincount(owner[everyone.split == c.TRAIN], minlength=size) > 0
    made.add("users", int(held.sum()))
    untrained = held & ~train
    nothing = np.zeros(size, dtype=np.int64)
    made.mark("untrained_users", untrained, everyone.user, nothing, nothing)


def _count_targets(made: _Counting, targets: Targets, known: Known) -> None:
    everything, at, before = targets.everything, targets.at, targets.known
    index = targets.user_index[targets.owner]
    user, item, time = everything.user[index], everything.item[at], everything.timestamp[at]
    made.add("targets", len(at))
    made.mark("repeated", targets.repeated, user, item, time)
    made.mark("cold_items", ~known.trained[item], user, item, time)
    if targets.sessions:
        last_item, last_time = everything.item[at - 1], everything.timestamp[at - 1]
    else:
        ends = before.offsets[1:][index] - 1
        last_item, last_time = before.item[ends], before.timestamp[ends]
    ordered = np.ones(len(at), dtype=bool)
    if known.timed:
        ordered = time == last_time
        made.mark("tied", ordered, user, item, time)
        owner = before.owner()
        # Equal 64-bit hashes stand for equal (user, item, time).
        key = np.sort(hashed(owner, before.item, before.timestamp).view(np.int64)[: len(owner)])
        wanted = hashed(index, item, time).view(np.int64)[: len(index)]
        made.mark("copied", contains(key, wanted), user, item, time)
        later = np.full(len(before), np.iinfo(np.int64).min)
        trains = before.split == c.TRAIN
        np.maximum.at(later, owner[trains], before.timestamp[trains])
        made.mark("trained_later", later[index] > time, user, item, time)
    rank, other = known.order[item], known.order[last_item]
    made.add("target_pairs", int((ordered & (item != last_item)).sum()))
    made.add("target_rises", int((ordered & (rank > other)).sum()))


def _count_order(made: _Counting, histories: Histories, known: Known) -> None:
    """Neighbours in a history whose order the times leave open, and how many of them rise by
    internal and by external id."""
    owner = histories.owner()
    open_ = owner[1:] == owner[:-1]
    if known.timed:
        open_ &= histories.timestamp[1:] == histories.timestamp[:-1]
    one, other = histories.item[:-1], histories.item[1:]
    open_ &= one != other
    made.add("pairs", int(open_.sum()))
    made.add("rising", int((open_ & (other > one)).sum()))
    made.add("rising_external", int((open_ & (known.order[other] > known.order[one])).sum()))


def _added(one: Mapping[Key, int], other: Mapping[Key, int]) -> dict[Key, int]:
    found = dict(one)
    for key, number in other.items():
        found[key] = found.get(key, 0) + number
    return found
