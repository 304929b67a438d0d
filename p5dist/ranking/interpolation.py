"""Interpolation of the probabilities of a model with remembered ones, see :mod:`.mixture`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from p5dist.ranking.counts import Counts, csr32, row_pieces, row_sums


def shared(counted: Counts, share: float | np.ndarray, *, in_place: bool = False) -> Counts:
    """[B, L] float32: counts [B, L], divided by the sum of their row, times ``share`` [B].

    Args:
        in_place: the counts may be overwritten.
    """
    total = row_sums(counted)
    factor = np.broadcast_to(share, total.shape) / np.where(total > 0, total, 1.0)
    if isinstance(counted, np.ndarray):
        out = counted if in_place else np.empty_like(counted)
        return np.multiply(counted, factor.astype(np.float32)[:, None], out=out)
    values = counted.data if in_place else np.empty(counted.nnz, dtype=np.float32)
    for rows in row_pieces(counted):
        ends = counted.indptr[rows.start : rows.stop + 1]
        at = slice(ends[0], ends[-1])
        of_entry = np.repeat(factor[rows], np.diff(ends))
        np.multiply(counted.data[at], of_entry, out=values[at], casting="same_kind")
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
        scores: [E] of the model, in double precision: exp(score - constant) is a probability.
        probability: [E] r, positive.
        constant: [E] of the user of each item.
    """
    return (scores - constant).exp_().add_(probability).log_().add_(constant)


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
