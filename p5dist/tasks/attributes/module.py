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
        self, of: Literal["next", "masked", "item"], name: str, *, dim: int, labels: int
    ) -> None:
        super().__init__()
        self.of = of
        self.name = name
        self.reads_states = of != "item"
        self.out = nn.Linear(dim, labels)
        nn.init.normal_(self.out.weight, std=0.02)
        # Values are rare: start at one expected value per item.
        nn.init.constant_(self.out.bias, -math.log(max(labels - 1, 1)))

    def counts(self, batch: Batch) -> list[float]:
        """Items whose values are predicted."""
        return [float(len(self._targets(batch)[1]))]

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        at, item = self._targets(batch)
        vectors = encoded.items[item] if self.of == "item" else encoded.states[at]
        owner, label = labels_of(item, batch.fields[self.name])
        rows = max(_LOGITS // self.out.out_features, 1)
        total = self._loss(vectors[:0], owner[:0], label[:0])
        for first in range(0, len(item), rows):
            begin, end = torch.searchsorted(owner, torch.tensor([first, first + rows])).tolist()
            part = vectors[first : first + rows], owner[begin:end] - first, label[begin:end]
            total = total + checkpoint(self._loss, *part, use_reentrant=False)
        return total.reshape(1)

    def _loss(self, vectors: Tensor, owner: Tensor, label: Tensor) -> Tensor:
        """Sum over vectors [M, dim]; vector ``owner[v]`` has the label ``label[v]``, v < V."""
        logits = self.out(vectors)
        loss: Tensor = F.softplus(logits).sum() - logits[owner, label].sum()
        return loss

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Positions [M] and items [M] whose values are predicted; items without values are left
        out."""
        if self.of == "next":
            at = torch.nonzero(batch.has_next).squeeze(1)
            item = batch.token[at + 1]
        elif self.of == "masked":
            assert batch.predicted is not None
            at = torch.nonzero(batch.predicted).squeeze(1)
            item = batch.token[at]
        else:
            at, item = torch.arange(len(batch.token), device=batch.token.device), batch.token
        known = torch.diff(batch.fields[self.name]["label_offsets"])[item] > 0
        return at[known], item[known]


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
