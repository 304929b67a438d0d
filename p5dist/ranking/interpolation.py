"""Interpolation of the probabilities of a model with remembered ones, see :mod:`.mixture`."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from p5dist.ranking.csr import csr32


def shared(counted: csr_array, share: float | np.ndarray) -> csr_array:
    """[B, L] float32: counts [B, L], divided by the sum of their row, times ``share`` [B]."""
    rows = counted.shape[0]
    lengths = np.diff(counted.indptr)
    row = np.repeat(np.arange(rows), lengths)
    total = np.bincount(row, counted.data, rows)
    factor = np.broadcast_to(share, (rows,)) / np.where(total > 0, total, 1.0)
    values = counted.data * np.repeat(factor, lengths)
    return csr32(counted.indptr, counted.indices, values, counted.shape)


def constant(log_sum: Tensor, total: Tensor) -> Tensor:
    """[b] what is subtracted from a score to give log p.

    Args:
        log_sum: [b] logarithm of the sum of exp(score) over the catalogue.
        total: [b] Σ r.
    """
    return log_sum - torch.log1p(-total)


def raised(scores: Tensor, probability: Tensor, constant: Tensor) -> Tensor:
    """[E] scores of remembered items.

    Args:
        scores: [E] of the model.
        probability: [E] r, positive.
        constant: [E] of the user of each item.
    """
    return torch.logaddexp(scores, probability.log().add_(constant))


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
