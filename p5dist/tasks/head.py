"""The contract of objectives and tasks."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import torch
from torch import Tensor, nn

from p5dist.data.batch import Batch
from p5dist.models.backbone import Encoded, Recommender

AnyHead = TypeVar("AnyHead", bound="Head")


class Head(nn.Module):
    """What one training stage learns: K losses over the batch, K = 1 for most.

    A loss is a sum here; the training loop divides each by its count over the global batch, so
    that it does not depend on which worker has how many histories.
    """

    names: tuple[str, ...] = ("loss",)
    """[K] names of the losses."""
    reads_states = True
    """Whether the losses read the states of the encoder."""
    ranks = False
    """Whether :meth:`user_vectors` rank items."""
    squared_error = False
    """Whether the loss is a squared error, as of a normal distribution."""

    @abstractmethod
    def counts(self, batch: Batch) -> list[float]:
        """[K] what each sum is divided by: predictions (or their weight) of this worker's batch."""

    @abstractmethod
    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[K] sums over the predictions of this worker's batch."""

    def forward(self, backbone: Recommender, batch: Batch) -> Tensor:
        """As :meth:`losses`, of what ``backbone`` makes of the batch."""
        return self.losses(self.encode(backbone, batch), batch)

    def encode(self, backbone: Recommender, batch: Batch) -> Encoded:
        """What the losses work on; without states where none are read."""
        if self.reads_states:
            encoded: Encoded = backbone(batch)
            return encoded
        items = backbone.item_vectors(batch)
        return Encoded(items.new_zeros(len(batch.token), 0), items)

    def combine(self, losses: Tensor) -> Tensor:
        """The scalar that is minimised, of the K mean losses [K]; linear in them."""
        return losses.sum()

    def part(self, kind: type[AnyHead]) -> AnyHead | None:
        """This head, or the part of it, that is of a kind; None where there is none."""
        return self if isinstance(self, kind) else None

    def user_vectors(self, backbone: Recommender, batch: Batch) -> Tensor:
        """[B, dim] what ranks items by its product with theirs: the last state of each history;
        zero for an empty one."""
        states = self.encode(backbone, batch).states
        ends = torch.nonzero(~batch.has_next).squeeze(1)
        vectors = states.new_zeros(batch.histories, states.shape[1])
        return vectors.index_copy(0, batch.owner[ends], states[ends])


class TargetWeight(nn.Module):
    """Weights of targets by the event that they are.

    Args:
        weights: by code of the event; code 0 is an interaction without event.
    """

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.plain = all(weight == 1 for weight in weights)
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, event: Tensor) -> Tensor | None:
        """[M] → [M]; None where all are 1."""
        return None if self.plain else self.weights[event]

    def total(self, event: Tensor) -> float:
        """Sum over [M] targets."""
        return float(len(event) if self.plain else self.weights[event].double().sum())
