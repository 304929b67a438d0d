"""Causal pre-training (GPT): predict the next item at every position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from p5dist.config.losses import FullSoftmax, Loss
from p5dist.tasks.predictions import NextInteractions
from p5dist.tasks.task import Context, Task, check_targets, target_weights

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule


class Causal(Task):
    """Predict the next item at every position (GPT)."""

    ranks = True
    kind: Literal["causal"] = "causal"
    loss: Loss = FullSoftmax()

    @property
    def own_parameters(self) -> bool:
        return False

    @property
    def catalogue_loss(self) -> Loss:
        return self.loss

    def check_data(self, context: Context, key: str) -> None:
        check_targets(context, key)

    def batch_fields(self, context: Context) -> NextInteractions:
        return NextInteractions(target_weights(context.manifest), ranks=True)

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.item_prediction import ItemPrediction

        return ItemPrediction(self.loss, context.name)
