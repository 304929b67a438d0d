"""Histories that lie one after the other ↔ rectangles for attention.

Histories of nearly equal length share a rectangle (:class:`p5dist.data.batch.Bucket`); all
rectangles of a batch lie in one array, so that a layer copies all interactions at once instead of
bucket by bucket.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from p5dist.data.batch import Batch, Bucket


def to_rectangles(x: Tensor, batch: Batch) -> list[Tensor]:
    """``x`` [T, w] as one tensor [histories, length, w] per bucket; padding is zero."""
    if torch.is_grad_enabled():
        flat: Tensor = _Spread.apply(x, batch.slot, batch.area)  # type: ignore[no-untyped-call]
    else:
        flat = x.new_zeros(batch.area, x.shape[1]).index_copy_(0, batch.slot, x)
    return [flat[b.area].view(b.histories, b.length, -1) for b in batch.buckets]


def from_rectangles(parts: list[Tensor], batch: Batch) -> Tensor:
    """[T, w], the inverse of :func:`to_rectangles`; there is at least one bucket."""
    flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    if not torch.is_grad_enabled():
        return flat.index_select(0, batch.slot)
    gathered: Tensor = _Gather.apply(flat, batch.slot)  # type: ignore[no-untyped-call]
    return gathered


def spread(values: Tensor, batch: Batch) -> Tensor:
    """[area] ``values`` [T] in the rectangles, padding is zero; no gradient."""
    return values.new_zeros(batch.area).index_copy_(0, batch.slot, values)


def real(batch: Batch, bucket: Bucket) -> Tensor:
    """[histories, length] bool: interaction, not padding."""
    if batch.valid is not None:
        return batch.valid
    slots = bucket.histories * bucket.length
    there = torch.zeros(slots, dtype=torch.bool, device=batch.slot.device)
    there[batch.slot[bucket.tokens] - bucket.area.start] = True
    return there.view(bucket.histories, bucket.length)


# Every slot has at most one interaction, so both directions are plain copies; autograd's own
# gradient of index_select would be a sum by index.


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slot: Tensor, area: int) -> Tensor:
        ctx.save_for_backward(slot)
        return x.new_zeros(area, x.shape[1]).index_copy_(0, slot, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slot,) = ctx.saved_tensors
        return grad.index_select(0, slot), None, None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.area = x.shape[0]
        return x.index_select(0, slot)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slot,) = ctx.saved_tensors
        return grad.new_zeros(ctx.area, grad.shape[1]).index_copy_(0, slot, grad), None
