"""Prediction of items: causal and masked pre-training, and fine-tuning to the next item."""

from __future__ import annotations

from torch import Tensor

from p5dist.config.losses import Loss
from p5dist.data.batch import Batch
from p5dist.models.backbone import Encoded
from p5dist.models.losses import catalogue_loss
from p5dist.tasks.module import TaskModule


class ItemPrediction(TaskModule):
    """Loss over the catalogue of the items that :mod:`p5dist.tasks.predictions` chose.

    Args:
        loss: over the catalogue.
        name: of the task.
    """

    ranks = True

    def __init__(self, loss: Loss, name: str) -> None:
        super().__init__()
        self.loss, self.name = loss, name

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        made = batch.fields[self.name]
        states, target = encoded.states[made["at"]], batch.token[made["target"]]
        total = catalogue_loss(states, target, encoded.items, batch, made, loss=self.loss)
        return total.reshape(1)
