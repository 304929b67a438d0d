"""Attention biases: learned numbers for the distance of two interactions in time and in position,
and a large negative number for pairs that attention may not see."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from p5dist.data.batch import Batch, Bucket
from p5dist.models.encoders.attention.rectangles import real, spread

INTERVALS = 33
"""Classes of time differences: each spans twice the seconds of the previous class, up to 2³²
seconds (136 years)."""
HIDDEN = -1e4
"""Bias of a pair that attention may not see; its exp and SiLU are zero."""


def interval_class(seconds: Tensor) -> Tensor:
    """⌊log₂(1 + |seconds|)⌋, at most INTERVALS - 1: the exponent of the float."""
    exponent = ((seconds.abs() + 1).float().view(torch.int32) >> 23) - 127
    return exponent.clamp_(max=INTERVALS - 1).long()


class IntervalClasses:
    """For every pair of interactions of a history: the class of their time difference, or INTERVALS
    if the first (the query) may not see the second (the key). Made once for all layers."""

    def __init__(self, batch: Batch, *, causal: bool) -> None:
        self._batch, self._causal = batch, causal
        self.seconds = batch.seconds
        """[T] float64"""

    @cached_property
    def pairs(self) -> list[Tensor]:
        """One tensor [histories, length, length] per bucket."""
        times, found = spread(self.seconds, self._batch), []
        for bucket in self._batch.buckets:
            t = times[bucket.area].view(bucket.histories, bucket.length)
            classes = interval_class(t.unsqueeze(2) - t.unsqueeze(1))
            hidden = unseen(self._batch, bucket, causal=self._causal)
            found.append(classes.masked_fill_(hidden, INTERVALS))
        return found


def unseen(batch: Batch, bucket: Bucket, *, causal: bool) -> Tensor:
    """[1 or histories, 1 or length, length] bool: the query must not see the key (last axis)."""
    if causal:  # padding is at the end, so no real interaction sees padding
        place = torch.arange(bucket.length, device=batch.slot.device)
        return (place > place.unsqueeze(1)).unsqueeze(0)
    return ~real(batch, bucket).unsqueeze(1)


class IntervalBias(nn.Module):
    """A learned number per class of time difference and head (after HSTU, Zhai et al. 2024, and
    TiSASRec, Li et al. 2020)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, INTERVALS))

    def forward(self, pairs: Tensor) -> Tensor:
        """[n, L, L] classes → [n, heads, L, L], HIDDEN for the class INTERVALS."""
        hidden = self.table.new_full((len(self.table), 1), HIDDEN)
        return _lookup(torch.cat([self.table, hidden], dim=1), pairs)


class DistanceBias(nn.Module):
    """A learned number per distance in position (T5, Raffel et al. 2020).

    Args:
        causal: the last interaction of a history is only a target in training, so the longest
            distance of a full history is never trained; the second longest replaces it.
    """

    def __init__(self, max_length: int, *, causal: bool) -> None:
        super().__init__()
        self.max_length = max_length
        self.longest = max(max_length - 1 - causal, 0)
        self.table = nn.Parameter(torch.zeros(1, 2 * max_length - 1))

    def forward(self, length: int) -> Tensor:
        """[1, 1, length, length]"""
        position = torch.arange(length, device=self.table.device)
        distance = (position.unsqueeze(1) - position).clamp(max=self.longest) + self.max_length - 1
        return _lookup(self.table, distance.unsqueeze(0))


def unused(*modules: nn.Module | None) -> Tensor | float:
    """Zero, with zero gradients for all parameters of the modules."""
    parameters = [p.sum() for module in modules if module is not None for p in module.parameters()]
    return torch.stack(parameters).sum() * 0 if parameters else 0.0


def _lookup(table: Tensor, index: Tensor) -> Tensor:
    """``table`` [heads, K] at ``index`` [n, L, L] → [n, heads, L, L]."""
    found: Tensor = _Lookup.apply(table, index)  # type: ignore[no-untyped-call]
    return found


class _Lookup(Function):
    # The gradient has K sums only: on CPU bincount computes them far faster than autograd's sum by
    # index; on a GPU bincount would wait for the largest index.

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = table.shape[1]
        return torch.stack([row.take(index) for row in table], dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        flat, heads = index.reshape(-1), range(grad.shape[1])
        parts = [grad[:, head].reshape(-1) for head in heads]
        if grad.device.type == "cpu":
            sums = [torch.bincount(flat, weights=part, minlength=ctx.size) for part in parts]
        else:
            sums = [part.new_zeros(ctx.size).index_add_(0, flat, part) for part in parts]
        return torch.stack(sums).to(grad.dtype), None
