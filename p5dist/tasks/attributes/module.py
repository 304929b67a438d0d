"""Prediction of item attributes (S³-Rec, Zhou et al. 2020)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.data.batch import Batch
from p5dist.models.backbone import Encoded
from p5dist.models.losses import sum_softplus
from p5dist.tasks.module import TaskModule


class AttributeModule(TaskModule):
    """Binary cross-entropy of every attribute value of an item, summed over the values.

    Args:
        of: the items whose values are predicted, see
            :class:`p5dist.tasks.attributes.Attributes`.
        name: of the task; the batch has the labels under this name.
        dim: width of states and item vectors.
        labels: number of values of all attributes together.
    """

    def __init__(
        self,
        of: Literal["next", "masked", "item"],
        name: str,
        *,
        dim: int,
        labels: int,
    ) -> None:
        super().__init__()
        self.of = of
        self.name = name
        self.reads_states = of != "item"
        self.out = nn.Linear(dim, labels)
        nn.init.normal_(self.out.weight, std=0.02)
        # Values are rare: start at one expected value per item.
        nn.init.constant_(self.out.bias, -math.log(max(labels - 1, 1)))

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        made = batch.fields[self.name]
        if self.of == "item":
            vectors = encoded.items[batch.token[made["target"]]]
        else:
            vectors = encoded.states[made["at"]]
        weight = made.get("weight")
        weight = vectors.new_ones(len(vectors)) if weight is None else weight
        # The bias as one more column, so that a logit is a product.
        layer = torch.cat([self.out.weight, self.out.bias.unsqueeze(1)], dim=1)
        vectors = F.pad(vectors, (0, 1), value=1.0)
        own = F.embedding_bag(made["label"], layer, made["first_label"], mode="sum")
        total = sum_softplus(vectors, layer, weight) - (vectors * own).sum(1) @ weight
        return total.reshape(1)
