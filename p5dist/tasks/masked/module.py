"""Masked pre-training (BERT4Rec, Sun et al. 2019): predict hidden items from both sides."""

from __future__ import annotations

import torch
from torch import Tensor

from p5dist.config.losses import Loss
from p5dist.data.batch import Batch
from p5dist.models.backbone import Encoded
from p5dist.models.losses import catalogue_loss
from p5dist.tasks.module import TargetWeight, TaskModule


class MaskedModule(TaskModule):
    """Loss of the items at the predicted positions of the batch; next_item with ``by: masked``
    uses it too.

    Args:
        loss: over the catalogue.
        weights: of targets, by event code.
    """

    ranks = True

    def __init__(self, loss: Loss, weights: list[float]) -> None:
        super().__init__()
        self.loss = loss
        self.weight = TargetWeight(weights)

    def counts(self, batch: Batch) -> list[float]:
        """Sum of the weights of the predicted positions."""
        return [self.weight.total(batch.event[self._chosen(batch)])]

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        at = self._chosen(batch)
        states, weight = encoded.states[at], self.weight(batch.event[at])
        loss = catalogue_loss(states, batch.token[at], encoded.items, batch, weight, loss=self.loss)
        return loss.reshape(1)

    def _chosen(self, batch: Batch) -> Tensor:
        """[M]"""
        assert batch.predicted is not None
        chosen = batch.predicted
        if not self.weight.plain:
            chosen = chosen & (self.weight.weights[batch.event] > 0)
        return torch.nonzero(chosen).squeeze(1)
