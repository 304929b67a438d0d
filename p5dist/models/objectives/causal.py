"""Causal pre-training (GPT): predict the next item at every position."""

from __future__ import annotations

from torch import Tensor, nn

from p5dist.batch import Batch
from p5dist.models.losses import next_item_loss
from p5dist.models.recommender import Encoded, Recommender


class Causal(nn.Module):
    """Loss of the next item; also the head of the next_item task."""

    def count(self, batch: Batch) -> int:
        """Predicted positions of this worker's batch."""
        return int(batch.has_next.sum())

    def forward(self, backbone: Recommender, batch: Batch) -> Tensor:
        """Sum of the loss over the predicted positions: a scalar."""
        encoded: Encoded = backbone(batch)
        return next_item_loss(encoded, batch)
