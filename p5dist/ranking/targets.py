"""Targets: the held-out interactions that a model is evaluated on, and the history of each.

Validation during training and the evaluate stage share this code. Targets, histories and seen items
are decided from whole users, so that windows, which cut prepared rows, change no rank:

- Without sessions the history of a target is every interaction of its user in the splits before the
  evaluated split.
- With sessions the history is every earlier interaction of the target's session, up to the
  evaluated split.
- The seen items of a target are the items of its history and, with sessions, the items of the
  user's earlier sessions in the splits before the evaluated split. With ``mask_seen`` seen items
  cannot be ranked; a target among them (a *repeat*) counts as a miss, as in published tables.
- With events named, only interactions of these events are targets.
- A target without any history is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from p5dist.config import RunConfig
from p5dist.config.output import Evaluate
from p5dist.config.splits import LeaveOneOut
from p5dist.config.validation import Validating
from p5dist.data import columns as c
from p5dist.data.events import event_codes
from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Ints, Jagged, contains, distinct, offsets_of, ranges
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import Stream, uniform
from p5dist.data.users import Users

NO_HISTORY, REPEATED, NOT_CHOSEN = "no_history", "repeated", "user_not_chosen"
OTHER_EVENT = "other_event"
"""Why an interaction of the evaluated split is no target."""


def events_of_targets(
    job: RunConfig, section: Evaluate | Validating | None
) -> tuple[str, ...] | None:
    """The events whose held-out interactions are targets: those that the section names, or those
    that the split holds out; None: all."""
    if section is not None and section.events is not None:
        return section.events
    split = job.prepare.split
    return split.events if isinstance(split, LeaveOneOut) else None


@dataclass(frozen=True)
class Rule:
    """Which held-out interactions are targets.

    Args:
        split: columns.VALIDATION or columns.TEST.
        sessions: a history is a session, not a user.
        targets: ``new`` leaves repeats out.
        events: codes of the events of targets; None: all.
        share: share of the users, chosen by a hash of seed and user.
        seed: of the job.
    """

    split: int
    sessions: bool
    targets: Literal["all", "new"] = "all"
    events: tuple[int, ...] | None = None
    share: float = 1.0
    seed: int = 1

    @classmethod
    def of(
        cls,
        job: RunConfig,
        manifest: Manifest,
        section: Evaluate | Validating,
        split: str,
        key: str,
    ) -> Rule:
        """The rule of a section of a job.

        Args:
            split: ``validation`` or ``test``.
            key: key path of the section.

        Raises:
            ConfigError: the prepared data has no such event.
        """
        users = manifest.users_by_split[split]
        events = events_of_targets(job, section)
        return cls(
            split=c.SPLIT_CODES[split],
            sessions=job.prepare.session_gap is not None,
            targets=section.targets,
            events=None if events is None else event_codes(manifest, events, f"{key}.events"),
            share=1.0 if section.users is None or not users else min(section.users / users, 1.0),
            seed=job.seed,
        )


@dataclass(frozen=True)
class TargetBatch:
    """M targets of B histories."""

    histories: Histories
    """[B] interactions known before a target, oldest first; an encoder sees the last of them."""
    seen: Jagged
    """[B] seen items of each history; may repeat"""
    owner: Ints
    """[M] index of the history, rising"""
    user: Ints
    """[M]"""
    item: Ints
    """[M]"""
    timestamp: Ints
    """[M] microseconds"""
    event: npt.NDArray[np.int8]
    """[M]"""
    rating: npt.NDArray[np.float32]
    """[M]"""
    repeated: Bools
    """[M] whether the item is among the seen items"""
    everything: Histories
    """All interactions of U users up to the evaluated split."""
    user_index: Ints
    """[B] index of each history's user in ``everything``"""

    @cached_property
    def had(self) -> Jagged:
        """[B] all items of the user up to and including the evaluated split: none of them is drawn
        as a negative."""
        whole = self.everything.take(self.user_index)
        return Jagged(whole.offsets, whole.item)


@dataclass(frozen=True)
class Targets:
    """M targets of B histories; :meth:`batches` makes the histories."""

    everything: Histories
    """All interactions of U users up to the evaluated split."""
    known: Histories
    """[U] the interactions of ``everything`` in the splits before the evaluated split"""
    user_index: Ints
    """[B] index of the user"""
    start: Ints
    """[B] start of the history in the user's part of ``everything`` (sessions) or ``known``"""
    length: Ints
    """[B]"""
    known_length: Ints
    """[B] number of known interactions of the user, from the first, that count as seen"""
    owner: Ints
    """[M] index of the history, rising"""
    at: Ints
    """[M] index of the interaction in ``everything``"""
    repeated: Bools
    """[M]"""
    sessions: bool
    left_out: dict[str, int]
    """Interactions of the evaluated split that are no targets, by reason."""
    users_without_history: int
    """Users all of whose interactions of the split were left out because they have no history."""

    def __len__(self) -> int:
        return len(self.owner)

    @classmethod
    def find(cls, users: Users, rule: Rule) -> Targets:
        """The targets among the interactions of some users."""
        left_out: dict[str, int] = {}

        def leave_out(reason: str, number: int) -> None:
            if number:
                left_out[reason] = left_out.get(reason, 0) + number

        if rule.share < 1:
            chosen = uniform(rule.seed, Stream.EVALUATED_USERS, users.histories.user) < rule.share
            wanted = int((users.histories.split == rule.split).sum())
            users = users.take(np.flatnonzero(chosen))
            leave_out(NOT_CHOSEN, wanted - int((users.histories.split == rule.split).sum()))
        up_to = users.histories.split <= rule.split
        everything, session = users.histories.where(up_to), users.session[up_to]
        known = everything.where(everything.split < rule.split)
        at = np.flatnonzero(everything.split == rule.split)
        if rule.events is not None:
            chosen_event = np.isin(everything.event[at], rule.events)
            leave_out(OTHER_EVENT, int((~chosen_event).sum()))
            at = at[chosen_event]
        user = everything.owner()[at]
        start, length, known_length = (
            _by_session(everything, session, at, rule.split)
            if rule.sessions
            else (np.zeros(len(at), np.int64), known.lengths[user], known.lengths[user])
        )
        fresh = length == 0
        leave_out(NO_HISTORY, int(fresh.sum()))
        skipped = len(np.setdiff1d(user[fresh], user[~fresh]))
        repeated = _repeated(everything, at, start, length, known, known_length, rule.sessions)
        keep = ~fresh
        if rule.targets == "new":
            leave_out(REPEATED, int((keep & repeated).sum()))
            keep &= ~repeated
        at, user, repeated = at[keep], user[keep], repeated[keep]
        start, length, known_length = start[keep], length[keep], known_length[keep]
        if rule.sessions:  # every target has a history of its own
            first, owner = np.arange(len(at)), np.arange(len(at))
        else:
            _, first, owner = np.unique(user, return_index=True, return_inverse=True)
        return cls(
            everything=everything,
            known=known,
            user_index=user[first],
            start=start[first],
            length=length[first],
            known_length=known_length[first],
            owner=owner,
            at=at,
            repeated=repeated,
            sessions=rule.sessions,
            left_out=left_out,
            users_without_history=skipped,
        )

    @classmethod
    def none(cls, rule: Rule) -> Targets:
        """The targets of no users."""
        return cls.find(Users.join(Histories.empty(), np.zeros(0, dtype=bool)), rule)

    def batches(self, size: int) -> Iterator[TargetBatch]:
        """The targets of ``size`` histories at a time."""
        for begin in range(0, len(self.user_index), size):
            yield self._batch(begin, min(begin + size, len(self.user_index)))

    def nothing(self) -> TargetBatch:
        """A batch without targets and histories."""
        return self._batch(0, 0)

    def _batch(self, begin: int, end: int) -> TargetBatch:
        b = slice(begin, end)
        m = slice(*np.searchsorted(self.owner, (begin, end)))
        source = self.everything if self.sessions else self.known
        histories = source.take(self.user_index[b], self.start[b], self.length[b])
        at = self.at[m]
        owner_in_batch = self.owner[m] - begin
        return TargetBatch(
            histories=histories,
            seen=self._seen(b, histories),
            owner=owner_in_batch,
            user=histories.user[owner_in_batch],
            item=self.everything.item[at],
            timestamp=self.everything.timestamp[at],
            event=self.everything.event[at],
            rating=self.everything.rating[at],
            repeated=self.repeated[m],
            everything=self.everything,
            user_index=self.user_index[b],
        )

    def _seen(self, b: slice, histories: Histories) -> Jagged:
        if not self.sessions:
            return Jagged(histories.offsets, histories.item)
        flat = np.concatenate([self.known.item, histories.item])
        begin = self.known.offsets[:-1][self.user_index[b]]
        starts = np.stack([begin, len(self.known.item) + histories.offsets[:-1]], axis=1)
        lengths = np.stack([self.known_length[b], histories.lengths], axis=1)
        values = flat[ranges(starts.reshape(-1), lengths.reshape(-1))]
        return Jagged(offsets_of(lengths.sum(axis=1)), values)


def _by_session(
    everything: Histories, session: Ints, at: Ints, split: int
) -> tuple[Ints, Ints, Ints]:
    """Three arrays [M] for the targets ``at``: start of the target's session in the interactions of
    its user, number of interactions of the session before the target, and number of known
    interactions of the user before the session."""
    new = np.ones(len(session), dtype=bool)
    new[1:] = session[1:] != session[:-1]
    first = np.flatnonzero(new)
    begin = first[np.searchsorted(first, at, side="right") - 1]
    user_begin = everything.offsets[:-1][everything.owner()[at]]
    known_before = offsets_of((everything.split < split).astype(np.int64))
    return begin - user_begin, at - begin, known_before[begin] - known_before[user_begin]


def _repeated(
    everything: Histories,
    at: Ints,
    start: Ints,
    length: Ints,
    known: Histories,
    known_length: Ints,
    sessions: bool,
) -> Bools:
    """[M] whether the item of a target is among its seen items."""
    owner = everything.owner()
    items = int(everything.item.max(initial=0)) + 1
    wanted = owner[at] * items + everything.item[at]
    if not sessions:
        return contains(distinct(known.owner() * items + known.item), wanted)
    # The first known position of every (user, item), and the position of the item before each.
    key, first = np.unique(known.owner() * items + known.item, return_index=True)
    index = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
    among = np.zeros(len(at), dtype=bool)
    if len(key):
        position = first[index] - known.offsets[:-1][owner[at]]
        among = (key[index] == wanted) & (position < known_length)
    pair = owner * items + everything.item
    order = np.argsort(pair, kind="stable")
    before = np.full(len(pair), -1, dtype=np.int64)
    same = pair[order][1:] == pair[order][:-1]
    before[order[1:][same]] = order[:-1][same]
    return among | (before[at] >= at - length) & (before[at] >= 0)
