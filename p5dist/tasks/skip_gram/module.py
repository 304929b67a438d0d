"""Skip-gram pre-training (word2vec, Mikolov et al. 2013): predict the items around an item."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.config.losses import Loss
from p5dist.data.batch import Batch
from p5dist.models.backbone import Backbone, Encoded, compared
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
        temperature: as model.cosine_temperature.
    """

    reads_states = False
    ranks = True

    def __init__(
        self,
        loss: Loss,
        name: str,
        *,
        dim: int,
        user_items: int,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.temperature = temperature
        self.name = name
        self.user_items = user_items
        self.scale = dim**0.5  # as the input of an encoder, so that logits have a useful range
        self.to_context = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.to_context.weight)

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        made = batch.fields[self.name]
        centre, context = batch.token[made["at"]], batch.token[made["target"]]
        # Mapped once per item instead of once per pair.
        states = F.embedding(centre, self._mapped(encoded.items))
        total = catalogue_loss(states, context, encoded.items, batch, made, loss=self.loss)
        return total.reshape(1)

    def user_vectors(self, backbone: Backbone, batch: Batch) -> Tensor:
        """[B, dim] the mean of the last items of each history, mapped to contexts; zero for an
        empty history."""
        items = self.encode(backbone, batch).items
        length = torch.diff(batch.offsets)
        late = length[batch.owner] - batch.position <= self.user_items
        vectors = items.new_zeros(batch.histories, items.shape[1])
        vectors = vectors.index_add(0, batch.owner, items[batch.token] * late.unsqueeze(1))
        mean = vectors / length.clamp(1, self.user_items).unsqueeze(1)
        return self._mapped(mean)

    def _mapped(self, items: Tensor) -> Tensor:
        """[n, dim] vectors of items or means of vectors, mapped to contexts."""
        return compared(self.to_context(items * self.scale).float(), self.temperature)
