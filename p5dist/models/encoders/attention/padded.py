"""Attention in rectangles: histories of nearly equal length are padded to the longest of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p5dist.data.batch import Batch, Bucket
from p5dist.models.encoders.attention.jagged import Activation
from p5dist.models.encoders.attention.rectangles import from_rectangles, real, to_rectangles
from p5dist.models.encoders.bias import (
    HIDDEN,
    DistanceBias,
    IntervalBias,
    IntervalClasses,
    unseen,
)


def attend(
    packed: Tensor,
    batch: Batch,
    order: tuple[int, int, int],
    heads: int,
    *,
    activation: Activation,
    causal: bool,
    distance: DistanceBias | None,
    interval: IntervalBias | None,
    intervals: IntervalClasses | None,
) -> Tensor:
    """[T, dim], see :func:`.attend.attend`."""
    outputs = []
    for i, part in enumerate(to_rectangles(packed, batch)):
        bucket = batch.buckets[i]
        bias = None if distance is None else distance(bucket.length)
        if interval is not None and intervals is not None:
            by_time = interval(intervals.pairs[i])  # hides what is not seen
            bias = by_time if bias is None else bias + by_time
        elif bias is not None or not causal:
            hidden = unseen(batch, bucket, causal=causal).unsqueeze(1)
            if bias is None:
                bias = torch.zeros_like(hidden, dtype=packed.dtype)
            bias = bias.masked_fill(hidden, HIDDEN)
        thirds = part.view(*part.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = (thirds[place] for place in order)
        if activation == "softmax":
            out = F.scaled_dot_product_attention(q, k, v, bias, is_causal=bias is None)
        else:
            assert bias is not None, "HSTU has biases"
            scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3))
            seen = visible(batch, bucket, causal=causal).clamp(min=1)
            out = torch.matmul(F.silu(scores + bias), v) / seen[:, None, :, None]
        outputs.append(out.transpose(1, 2).flatten(2))
    return from_rectangles(outputs, batch)


def visible(batch: Batch, bucket: Bucket, *, causal: bool) -> Tensor:
    """[histories, length] number of interactions that each interaction sees: the interactions up to
    it if causal, else all of its history."""
    if causal:
        steps = torch.arange(1, bucket.length + 1, device=batch.slot.device)
        return steps.expand(bucket.histories, -1)
    lengths = real(batch, bucket).sum(1, keepdim=True)
    return lengths.expand(-1, bucket.length)
