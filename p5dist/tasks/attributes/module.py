"""Prediction of item attributes (S³-Rec, Zhou et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from p5dist.data.batch import Batch
from p5dist.models.backbone import Encoded
from p5dist.tasks.module import TargetWeight, TaskModule

_LOGITS = 1 << 22  # held at once


class AttributeModule(TaskModule):
    """Binary cross-entropy of every attribute value of an item, summed over the values.

    Args:
        of: the items whose values are predicted, see
            :class:`p5dist.tasks.attributes.Attributes`.
        weights: of the interactions whose items are predicted, by event code.
        name: of the task; the batch has the labels under this name.
        dim: width of states and item vectors.
        labels: number of values of all attributes together.
    """

    def __init__(
        self,
        of: Literal["next", "masked", "item"],
        weights: list[float],
        name: str,
        *,
        dim: int,
        labels: int,
    ) -> None:
        super().__init__()
        self.of = of
        self.weight = TargetWeight(weights)
        self.name = name
        self.reads_states = of != "item"
        self.out = nn.Linear(dim, labels)
        nn.init.normal_(self.out.weight, std=0.02)
        # Values are rare: start at one expected value per item.
        nn.init.constant_(self.out.bias, -math.log(max(labels - 1, 1)))

    def counts(self, batch: Batch) -> list[float]:
        """Sum of the weights of the interactions whose values are predicted."""
        return [self.weight.total(batch.event[self._targets(batch)[1]])]

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        at, target = self._targets(batch)
        item, weight = batch.token[target], self.weight(batch.event[target])
        weight = encoded.items.new_ones(len(item)) if weight is None else weight
        vectors = encoded.items[item] if self.of == "item" else encoded.states[at]
        owner, label = labels_of(item, batch.fields[self.name])
        rows = max(_LOGITS // self.out.out_features, 1)
        total = self._loss(vectors[:0], weight[:0], owner[:0], label[:0])
        for first in range(0, len(item), rows):
            begin, end = torch.searchsorted(owner, torch.tensor([first, first + rows])).tolist()
            own = slice(first, first + rows)
            part = vectors[own], weight[own], owner[begin:end] - first, label[begin:end]
            total = total + checkpoint(self._loss, *part, use_reentrant=False)
        return total.reshape(1)

    def _loss(self, vectors: Tensor, weight: Tensor, owner: Tensor, label: Tensor) -> Tensor:
        """Sum over vectors [M, dim] with weights [M]; vector ``owner[v]`` has the label
        ``label[v]``, v < V."""
        logits = self.out(vectors)
        loss: Tensor = F.softplus(logits).sum(1) @ weight - logits[owner, label] @ weight[owner]
        return loss

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Positions [M] that predict, and positions [M] whose items' values are predicted; items
        without values are left out."""
        if self.of == "next":
            at = torch.nonzero(batch.has_next).squeeze(1)
            target = at + 1
        elif self.of == "masked":
            assert batch.predicted is not None
            at = target = torch.nonzero(batch.predicted).squeeze(1)
        else:
            at = target = torch.arange(len(batch.token), device=batch.token.device)
        known = torch.diff(batch.fields[self.name]["label_offsets"])[batch.token[target]] > 0
        return at[known], target[known]


def labels_of(item: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(index into ``item`` [M], label) of every label of the items, in the order of the index.

    Args:
        fields: the arrays of :class:`p5dist.tasks.attributes.LabelFields`.
    """
    first = fields["label_offsets"][item]
    length = fields["label_offsets"][item + 1] - first
    owner = torch.repeat_interleave(torch.arange(len(item), device=item.device), length)
    start = torch.cumsum(length, 0) - length
    within = torch.arange(len(owner), device=item.device) - start[owner]
    return owner, fields["labels"][first[owner] + within]
