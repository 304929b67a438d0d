"""The contract of objectives and tasks."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from p5dist.batch import Batch
from p5dist.models.recommender import Recommender


class Head(nn.Module):
    """What one training stage learns: K losses over the batch, K = 1 for most.

    A loss is a sum here; the training loop divides each by its count over the global batch, so
    that it does not depend on which worker has how many histories.
    """

    names: tuple[str, ...] = ("loss",)
    """[K] names of the losses."""

    @abstractmethod
    def counts(self, batch: Batch) -> list[float]:
        """[K] what each sum is divided by: predictions (or their weight) of this worker's batch."""

    @abstractmethod
    def forward(self, backbone: Recommender, batch: Batch) -> Tensor:
        """[K] sums over the predictions of this worker's batch."""

    def combine(self, losses: Tensor) -> Tensor:
        """The scalar that is minimised, of the K mean losses [K]; linear in them."""
        return losses.sum()
