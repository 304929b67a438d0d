"""How users come back to their own items: no training, counts only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Bools, Floats, Ints, Jagged
from p5dist.ranking.counts import csr32
from p5dist.ranking.sparse import rank_and_list_sparse
from p5dist.ranking.topk import Ranked

PLACES = 16
"""Own items that are looked at, the latest first."""
_LAGS = 64  # interactions back in which they are looked for
_SURE = 0.95
_PRIOR = 1.0


@dataclass(frozen=True)
class Returns:
    """Ranks the items of a history by how often users came back to such an item next.

    The own items of a user at some time are in the order of their last interaction, the latest
    first. An own item is described by the event of that interaction and by its place, 1…16. The
    table has, for each description, the share of such items that the next interaction (one of the
    target events) was of, in all training histories. The probabilities of a history's items are
    those of the table; where they sum to more than 0.95, they are scaled down to it.
    """

    catalogue: Catalogue
    table: Floats
    """[events + 1, PLACES] probability of the next interaction, by code of the event"""

    name = "returns"
    fitted_on = "how users came back to their own items in training histories"

    def scores(self, histories: Histories) -> csr_array:
        """[B, L] float32 probabilities of the items of each history."""
        row, column, value = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        ends = histories.offsets[1:]
        full = np.flatnonzero(histories.lengths > 0)
        for at, place, mine in _own_items(histories, ends[full] - 1, histories.lengths[full]):
            row.append(full[mine])
            column.append(histories.item[at] - 1)
            value.append(self.table[histories.event[at], place])
        rows, values = np.concatenate(row), np.concatenate(value)
        order = np.argsort(rows, kind="stable")
        rows, columns, values = rows[order], np.concatenate(column)[order], values[order]
        total = np.bincount(rows, values, len(histories))
        values = values * (_SURE / np.maximum(total, _SURE))[rows]
        there = values > 0
        offsets = np.append(0, np.cumsum(np.bincount(rows[there], minlength=len(histories))))
        return csr32(
            offsets, columns[there], values[there], (len(histories), self.catalogue.largest)
        )

    def rank_and_list(
        self, histories: Histories, owner: Ints, target: Ints, k: int, *, seen: Jagged | None
    ) -> Ranked:
        """See :class:`.topk.Ranker`."""
        scores = self.scores(histories)
        return rank_and_list_sparse(scores, self.catalogue, owner, target, k, seen=seen)


def count_returns(histories: Histories, targets: Bools) -> Ints:
    """[2, events + 1, PLACES] own items before the targets, and how often the target was of one;
    counts of different histories add up.

    Args:
        histories: training interactions of whole users.
        targets: [events + 1] by code, whether interactions of the event are targets.
    """
    found = np.zeros((2, len(targets), PLACES), dtype=np.int64)
    before = histories.position()
    wanted = np.flatnonzero(targets[histories.event] & (before > 0))
    for at, place, mine in _own_items(histories, wanted - 1, before[wanted]):
        of = histories.event[at].astype(np.int64), place
        np.add.at(found[0], of, 1)
        hit = histories.item[at] == histories.item[wanted[mine]]
        np.add.at(found[1], (of[0][hit], of[1][hit]), 1)
    return found


def returns_of(counts: Ints) -> Floats:
    """The table of :class:`Returns` from the sums of :func:`count_returns`. Where all interactions
    have an event, one that is given without event (code 0) is described by its place alone."""
    if not counts[0, 0].any():
        counts = np.concatenate([counts.sum(axis=1, keepdims=True), counts[:, 1:]], axis=1)
    table: Floats = counts[1] / (counts[0] + _PRIOR)
    return table


def _own_items(histories: Histories, last: Ints, length: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
    """The distinct items among ``length`` [m] interactions that end at ``last`` [m], of
    m histories: for each the index of its last interaction, its place from 0, and the index among
    the m; place by place as they come."""
    following = _next_of_item(histories)
    place = np.zeros(len(last), dtype=np.int64)
    for lag in range(min(_LAGS, int(length.max(initial=0)))):
        mine = np.flatnonzero((length > lag) & (place < PLACES))
        if not len(mine):
            return
        at = last[mine] - lag
        latest = following[at] > last[mine]
        at, mine = at[latest], mine[latest]
        yield at, place[mine], mine
        place[mine] += 1


def _next_of_item(histories: Histories) -> Ints:
    """[T] index of the next interaction of the history with the same item; T if there is none."""
    total = len(histories.item)
    key = histories.owner() * (int(histories.item.max(initial=0)) + 1) + histories.item
    order = np.argsort(key, kind="stable")
    found = np.full(total, total, dtype=np.int64)
    same = key[order][1:] == key[order][:-1]
    found[order[:-1][same]] = order[1:][same]
    return found
