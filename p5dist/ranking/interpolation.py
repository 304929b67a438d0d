"""Ranking by an interpolation of a model and item-to-item counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.ranking.topk import Ranker, row_blocks, scores_of


@dataclass(frozen=True)
class Mixture:
    """Interpolates two distributions over the next item: p = (1 - λ) · softmax(scores of the model)
    + λ · counts / Σ counts, as kNN-LM does (Khandelwal et al. 2020).

    A model of limited width generalises; counts remember pairs exactly. Scores are log p. For a
    history without any count, they are the log softmax of the model alone.

    Args:
        model: ranker whose scores are logits.
        counts: ranker whose scores are not negative.
        share: λ, 0 < λ < 1.
    """

    model: Ranker
    counts: Ranker
    share: float

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.model.name

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue of the model."""
        return self.model.catalogue

    def blocks(self, histories: Histories) -> Iterator[tuple[slice, Tensor]]:
        """See :class:`.topk.Ranker`."""
        for rows in row_blocks(len(histories), self.catalogue.largest, 4):
            part = histories.between(rows.start, rows.stop)
            counted = _whole(self.counts.blocks(part))
            total = counted.sum(1, keepdim=True)
            remembered = (counted / total).log_().add_(math.log(self.share))
            learned = torch.log_softmax(_whole(scores_of(self.model, part)), 1)
            mixed = torch.logaddexp(learned + math.log1p(-self.share), remembered)
            yield rows, torch.where(total > 0, mixed, learned)


def _whole(blocks: Iterator[tuple[slice, Tensor]]) -> Tensor:
    """[B, largest id]"""
    return torch.cat([scores for _, scores in blocks])
