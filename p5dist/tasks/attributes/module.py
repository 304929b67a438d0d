"""Prediction of item attributes (S³-Rec, Zhou et al. 2020)."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from p5dist.data.batch import Batch
from p5dist.models.backbone import Encoded
from p5dist.tasks.attributes import FIRST_LABEL
from p5dist.tasks.module import TaskModule

_LOGITS = 1 << 22  # held at once


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
        at, target, first_label = made["at"], made["target"], made[FIRST_LABEL]
        owner, label = made["label"]
        weight = made.get("weight")
        weight = encoded.items.new_ones(len(at)) if weight is None else weight
        item = self.of == "item"
        vectors = encoded.items[batch.token[target]] if item else encoded.states[at]
        rows = max(_LOGITS // self.out.out_features, 1)
        total = self._loss(vectors[:0], weight[:0], owner[:0], label[:0])
        for first in range(0, len(at), rows):
            last = min(first + rows, len(at))
            own, labels = slice(first, last), slice(first_label[first], first_label[last])
            part = vectors[own], weight[own], owner[labels] - first, label[labels]
            total = total + checkpoint(self._loss, *part, use_reentrant=False)
        return total.reshape(1)

    def _loss(self, vectors: Tensor, weight: Tensor, owner: Tensor, label: Tensor) -> Tensor:
        """Sum over vectors [M, dim] with weights [M]; vector ``owner[v]`` has the label
        ``label[v]``, v < V."""
        logits = self.out(vectors)
        loss: Tensor = F.softplus(logits).sum(1) @ weight - logits[owner, label] @ weight[owner]
        return loss
