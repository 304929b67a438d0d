"""The examples of a batch: interactions with a label, and drawn items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Ints
from p5dist.data.manifest import Manifest
from p5dist.feed.batch_fields import BatchFields, Collated
from p5dist.tasks.click.negatives import Unclicked
from p5dist.tasks.predictions import TargetWeights, before_others

if TYPE_CHECKING:
    from p5dist.tasks.click import Click

_DRAWN = "drawn"


class Examples(BatchFields):
    """Of the targets that have a label, then of the negatives drawn for each yes: ``at`` [M] the
    interactions before the examples, ``item`` [M] index of the item among the items of the batch,
    ``label`` [M] float32, ``weight`` [M] float32 (left out where all are 1).

    Args:
        label: labels of interactions.
        negatives: draws the negatives; None: the task draws none.
        weights: of targets; a negative has the weight of its yes.
    """

    def __init__(
        self,
        label: Label,
        negatives: Unclicked | None,
        weights: TargetWeights,
    ) -> None:
        self._label, self.negatives = label, negatives
        self._weights = weights

    def items(self, histories: Histories, step: int) -> Mapping[str, Ints]:
        return {} if self.negatives is None else {_DRAWN: self.negatives.drawn(histories, step)}

    def arrays(self, batch: Collated) -> dict[str, Array]:
        histories = batch.histories
        labels = self._label(histories.event, histories.rating)
        at = before_others(histories)
        at = at[~np.isnan(labels[at + 1])]
        item, label = batch.token[at + 1], labels[at + 1]
        if self.negatives is not None:
            drawn = batch.asked[_DRAWN][at + 1]
            owner, column = np.nonzero((drawn >= 0) & (label == 1)[:, None])
            at = np.concatenate([at, at[owner]])
            item = np.concatenate([item, drawn[owner, column]])
            label = np.concatenate([label, np.zeros(len(owner), dtype=np.float32)])
        weight = self._weights.of(histories, at + 1)
        found: dict[str, Array] = {"at": at, "item": item, "label": label}
        return found if weight is None else found | {"weight": weight}


class Label:
    """1 for a yes, 0 for a no, NaN for an interaction without label.

    Args:
        config: the task section.
        manifest: has the names of the events.
    """

    def __init__(self, config: Click, manifest: Manifest) -> None:
        self._threshold = config.threshold
        positive = config.positive
        named = [0.0, *(float(event in (positive or ())) for event in manifest.events)]
        self._by_event = None if positive is None else np.asarray(named, dtype=np.float32)

    def __call__(self, event: Array, rating: Array) -> npt.NDArray[np.float32]:
        """[T], [T] → [T]"""
        if self._by_event is not None:
            return self._by_event[event]
        if self._threshold is None:
            return np.ones(len(event), dtype=np.float32)
        yes = (rating >= self._threshold).astype(np.float32)
        return np.where(np.isnan(rating), np.float32(np.nan), yes)
