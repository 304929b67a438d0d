"""Interpolation of a model and item-to-item counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Interpolates two distributions over the next item: p = (1 - λ) · softmax(scores of the model)
    + λ · counts / Σ counts, as kNN-LM does (Khandelwal et al. 2020).

    A model of limited width generalises; counts remember pairs exactly. Scores are log p. For a
    user without any count, they are the log softmax of the model alone.

    log p differs from the score of the model by a constant of the user, except for items with a
    count. So items are ranked by the score of the model, in which :meth:`raised` replaces the
    scores of the items with a count.

    Args:
        share: λ, 0 < λ < 1.
    """

    share: float

    def constant(self, log_sum: Tensor, total: Tensor) -> Tensor:
        """[b] what is subtracted from a score to give log p.

        Args:
            log_sum: [b] logarithm of the sum of exp(score) over the catalogue.
            total: [b] Σ counts.
        """
        return log_sum - torch.where(total > 0, math.log1p(-self.share), 0.0)

    def raised(self, scores: Tensor, counts: Tensor, constant: Tensor, total: Tensor) -> Tensor:
        """[E] scores of items with a count.

        Args:
            scores: [E] of the model.
            counts: [E] positive.
            constant, total: [E] of the user of each item.
        """
        remembered = (counts / total).log_().add_(math.log(self.share)).add_(constant)
        return torch.logaddexp(scores, remembered)


class LogSum:
    """Logarithm of the sum of exp over blocks of scores."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._highest = torch.full((rows,), -torch.inf, device=device)
        self._sum = torch.zeros(rows, device=device)

    def add(self, scores: Tensor, room: Tensor) -> None:
        """Take in scores [b, n].

        Args:
            room: [b, n] to write to.
        """
        highest = torch.maximum(self._highest, scores.amax(1))
        added = torch.sub(scores, highest[:, None], out=room).exp_().sum(1)
        self._sum = self._sum * torch.exp(self._highest - highest) + added
        self._highest = highest

    def value(self) -> Tensor:
        """[b]"""
        return self._highest + torch.log(self._sum)
