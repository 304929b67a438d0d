"""Skip-gram pre-training (word2vec, Mikolov et al. 2013): predict the items around an item."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.config.losses import Loss
from p5dist.data.batch import Batch
from p5dist.models.backbone import Backbone, Encoded
from p5dist.models.losses import catalogue_loss
from p5dist.tasks.module import TaskModule


class SkipGramModule(TaskModule):
    """Loss of a context item given a centre item.

    word2vec has two tables, one of centres and one of contexts. Here there is one table, and a
    square matrix maps its vectors from centres to contexts, so that an item need not predict
    itself.

    Args:
        loss: over the catalogue.
        name: of the task; the batch has the pairs under this name.
        dim: width of item vectors.
        user_items: number of last items of a history whose mean gives the user vector.
    """

    reads_states = False
    ranks = True

    def __init__(self, loss: Loss, name: str, *, dim: int, user_items: int) -> None:
        super().__init__()
        self.loss = loss
        self.name = name
        self.user_items = user_items
        self.scale = dim**0.5  # as the input of an encoder, so that logits have a useful range
        self.to_context = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.to_context.weight)

    def counts(self, batch: Batch) -> list[float]:
        """Number of pairs."""
        return [float(batch.fields[self.name]["pairs"].shape[1])]

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        centre, context = batch.token[batch.fields[self.name]["pairs"]]
        # Mapped once per item instead of once per pair.
        mapped = self.to_context(encoded.items * self.scale)
        states = F.embedding(centre, mapped)
        return catalogue_loss(states, context, encoded.items, batch, loss=self.loss).reshape(1)

    def user_vectors(self, backbone: Backbone, batch: Batch) -> Tensor:
        """[B, dim] the mean of the last items of each history, mapped to contexts; zero for an
        empty history."""
        items = self.encode(backbone, batch).items
        length = torch.bincount(batch.owner, minlength=batch.histories)
        late = torch.nonzero(length[batch.owner] - batch.position <= self.user_items).squeeze(1)
        owner = batch.owner[late]
        vectors = items.new_zeros(batch.histories, items.shape[1])
        vectors = vectors.index_add(0, owner, items[batch.token[late]])
        mean = vectors / length.clamp(1, self.user_items).unsqueeze(1)
        users: Tensor = self.to_context(mean * self.scale)
        return users
