"""Which interactions of a batch predict what: index arrays, made beside the training step.

A task whose states predict interactions has the fields

- ``at`` [M]: the interactions whose states predict,
- ``target`` [M]: the interactions that are predicted,
- ``weight`` [M] float32: weights of the predictions, left out where all are 1,

and a task with a loss over the catalogue, whose candidates are drawn, also the pairs of a target
and a candidate that are the same item, which the loss leaves out: ``hits`` [2, H] (index of the
prediction, rising, and index of the candidate), and in memory of the host ``first_hit`` [M + 1]:
the hits of prediction m are ``first_hit[m]`` … ``first_hit[m + 1] - 1``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Ints, offsets_of
from p5dist.data.labelled import LabelledUsers
from p5dist.feed.batch_fields import BatchFields, Collated

FIRST_HIT = "first_hit"


class Predictions(BatchFields):
    """A subclass chooses the interactions.

    Args:
        weights: of targets; targets of weight 0 are left out. Left out: all are 1.
        ranks: the task has a loss over the catalogue.
    """

    on_host = (FIRST_HIT,)

    def __init__(self, weights: TargetWeights | None = None, *, ranks: bool) -> None:
        self._weights, self._ranks = weights or TargetWeights([1.0]), ranks

    @abstractmethod
    def choose(self, batch: Collated) -> tuple[Ints, Ints]:
        """``at`` and ``target`` [M], before weights are looked at."""

    def arrays(self, batch: Collated) -> dict[str, Array]:
        at, target = self.choose(batch)
        weight = self._weights.of(batch.histories, target)
        if weight is not None:
            counted = weight > 0
            at, target, weight = at[counted], target[counted], weight[counted]
        found: dict[str, Array] = {"at": at, "target": target}
        if weight is not None:
            found["weight"] = weight
        if self._ranks and batch.drawn is not None:
            found |= find_hits(batch.token[target], batch.drawn)
        return found


class NextInteractions(Predictions):
    """Every interaction predicts the next one of its history."""

    def choose(self, batch: Collated) -> tuple[Ints, Ints]:
        at = before_others(batch.histories)
        return at, at + 1


class ChosenInteractions(Predictions):
    """The interactions that the masked objective of the batch has chosen."""

    def choose(self, batch: Collated) -> tuple[Ints, Ints]:
        assert batch.predicted is not None, "an objective hides interactions"
        at = np.flatnonzero(batch.predicted)
        return at, at


class TargetWeights:
    """Weights of targets by their event, user and time.

    Args:
        by_event: by event code; code 0 is an interaction without event.
        labelled: the targets of other users have weight 0; None: of no user.
        since: earlier targets have weight 0 (microseconds since 1970); None: of no time.
    """

    def __init__(
        self,
        by_event: Sequence[float],
        labelled: LabelledUsers | None = None,
        since: int | None = None,
    ) -> None:
        self._by_event = np.asarray(by_event, dtype=np.float32)
        self._labelled, self._since = labelled, since
        alike = all(weight == 1 for weight in by_event)
        self._plain = labelled is None and since is None and alike

    def of(self, histories: Histories, target: Ints) -> npt.NDArray[np.float32] | None:
        """[M] weights of the interactions ``target`` [M]; None where all weights are 1."""
        if self._plain:
            return None
        weight: npt.NDArray[np.float32] = self._by_event[histories.event[target]]
        if self._labelled is not None:
            weight = weight * self._labelled(histories.user)[histories.owner()[target]]
        if self._since is not None:
            weight = weight * (histories.timestamp[target] >= self._since)
        return weight


def before_others(histories: Histories) -> Ints:
    """The interactions that another one of the same history follows."""
    last = np.zeros(len(histories.item), dtype=bool)
    last[histories.offsets[1:][histories.lengths > 0] - 1] = True
    return np.flatnonzero(~last)


def find_hits(target: Ints, candidates: Ints) -> dict[str, Ints]:
    """The fields ``hits`` and ``first_hit`` of targets [M] and candidates [C], both as indices of
    the same items; without comparing all pairs."""
    order = np.argsort(candidates, kind="stable")
    ordered = candidates[order]
    first = np.searchsorted(ordered, target)
    count = np.searchsorted(ordered, target, side="right") - first
    row, ends = np.repeat(np.arange(len(target)), count), offsets_of(count)
    column = order[first[row] + np.arange(len(row)) - ends[row]]
    return {"hits": np.stack([row, column]), FIRST_HIT: ends}
