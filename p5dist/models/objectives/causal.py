"""Causal pre-training (GPT): predict the next item at every position."""

from __future__ import annotations

import torch
from torch import Tensor

from p5dist.batch import Batch
from p5dist.models.head import Head
from p5dist.models.losses import catalogue_loss
from p5dist.models.recommender import Encoded, Recommender


class Causal(Head):
    """Loss of the next item; also the head of the next_item task."""

    def counts(self, batch: Batch) -> list[float]:
        """Predicted positions."""
        return [float(batch.has_next.sum())]

    def forward(self, backbone: Recommender, batch: Batch) -> Tensor:
        """[1]"""
        encoded: Encoded = backbone(batch)
        now = torch.nonzero(batch.has_next).squeeze(1)
        target = batch.token[now + 1]
        return catalogue_loss(encoded.states[now], target, encoded.items, batch).reshape(1)
