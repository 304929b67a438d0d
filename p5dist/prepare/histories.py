"""Interactions of a shard → histories: users or their sessions, split, and cut where too long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p5dist.config.prepare import Prepare
from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints, ranges
from p5dist.prepare.interactions import Interactions
from p5dist.prepare.split import Cuts, split_codes


@dataclass(frozen=True)
class ShardHistories:
    """The B histories of a shard, T interactions together, still with the ids of the shard."""

    user: Ints
    """[B] index of the user; one user's histories are in the order of time."""
    session: Ints
    """[B] number of the session (without sessions: of the user) that the history is a window of"""
    lengths: Ints
    """[B] at least 1"""
    rows: Interactions
    """[T]"""
    split: npt.NDArray[np.int8]
    """[T]"""

    def starts(self) -> Ints:
        return np.cumsum(self.lengths) - self.lengths

    def targets(self) -> Bools:
        """[T] training interactions after another training interaction of their history, without
        those that earlier runs have trained on."""
        train = self.split == c.TRAIN
        before = np.cumsum(train) - train
        later: Bools = train & (before > np.repeat(before[self.starts()], self.lengths))
        return later if self.rows.trained is None else later & ~self.rows.trained

    def where(self, keep: Bools) -> ShardHistories:
        """The interactions with ``keep`` [T]; histories without any go."""
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        starts = self.starts()
        lengths = kept_before[starts + self.lengths] - kept_before[starts]
        full = lengths > 0
        return ShardHistories(
            self.user[full],
            self.session[full],
            lengths[full],
            self.rows.take(keep),
            self.split[keep],
        )


def build(
    rows: Interactions, prepare: Prepare, cuts: Cuts | None, held_out: Bools | None = None
) -> ShardHistories:
    """Histories of all of a shard's interactions, also of those :data:`.split.AFTER_TEST`.

    Args:
        rows: the interactions that :func:`over_length` keeps.
        prepare: the section of the job.
        cuts, held_out: see :func:`.split.split_codes`.
    """
    starts = _starts(rows, prepare.session_gap)
    lengths = np.diff(starts, append=len(rows))
    split = split_codes(prepare.split, lengths, rows, cuts, held_out)
    if rows.trained is not None:  # whatever the cut says
        split[rows.trained] = c.TRAIN
    session = np.arange(len(starts))
    if prepare.max_length is not None:
        session = np.repeat(session, -(-lengths // prepare.max_length))
        starts, lengths = _windows(starts, lengths, prepare.max_length)
    return ShardHistories(rows.user[starts].astype(np.int64), session, lengths, rows, split)


def over_length(rows: Interactions, prepare: Prepare) -> Bools | None:
    """[n] whether an interaction is older than the latest ``max_length`` of its history, where the
    job keeps only these; None where no history is longer."""
    if prepare.max_length is None or prepare.longer != "last":
        return None
    starts = _starts(rows, prepare.session_gap)
    extra = np.maximum(np.diff(starts, append=len(rows)) - prepare.max_length, 0)
    if not extra.any():
        return None
    too_old = np.zeros(len(rows), np.bool_)
    too_old[ranges(starts, extra)] = True
    return too_old


def train_counts(histories: ShardHistories, users: int) -> Ints:
    """[users] training interactions of each user of the shard."""
    return np.bincount(histories.rows.user[histories.split == c.TRAIN], minlength=users)


def _starts(rows: Interactions, gap: int | None) -> Ints:
    new = np.ones(len(rows), np.bool_)
    new[1:] = rows.user[1:] != rows.user[:-1]
    if gap is not None:
        new[1:] |= np.diff(rows.time) > gap * c.SECOND
    return np.flatnonzero(new)


def _windows(starts: Ints, lengths: Ints, size: int) -> tuple[Ints, Ints]:
    """Starts and lengths of windows of ``size``, counted from each history's end."""
    pieces = -(-lengths // size)
    first = lengths - (pieces - 1) * size  # the oldest window has the remainder
    number = ranges(np.zeros(len(pieces), np.int64), pieces)
    begin = np.repeat(starts, pieces)
    offset = np.where(number > 0, np.repeat(first, pieces) + (number - 1) * size, 0)
    return begin + offset, np.where(number == 0, np.repeat(first, pieces), size)
