"""Causal pre-training (GPT): predict the next item at every position."""

from __future__ import annotations

import torch
from torch import Tensor

from p5dist.config.losses import Loss
from p5dist.data.batch import Batch
from p5dist.models.backbone import Encoded
from p5dist.models.losses import catalogue_loss
from p5dist.tasks.module import TargetWeight, TaskModule


class CausalModule(TaskModule):
    """Loss of the next item; next_item with ``by: causal`` uses it too.

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
        """Sum of the weights of the targets."""
        return [self.weight.total(batch.event[self._now(batch) + 1])]

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        now = self._now(batch)
        target, weight = batch.token[now + 1], self.weight(batch.event[now + 1])
        states = encoded.states[now]
        loss = catalogue_loss(states, target, encoded.items, batch, weight, loss=self.loss)
        return loss.reshape(1)

    def _now(self, batch: Batch) -> Tensor:
        """Positions [M] whose next interaction is a target."""
        wanted = batch.has_next
        if not self.weight.plain:
            wanted = wanted & (self.weight.weights[torch.roll(batch.event, -1)] > 0)
        return torch.nonzero(wanted).squeeze(1)
