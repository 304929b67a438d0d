"""The choice of the way in which attention is computed."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from p5dist.data.batch import Batch
from p5dist.models.encoders.attention import jagged, padded, varlen
from p5dist.models.encoders.attention.jagged import Activation
from p5dist.models.encoders.bias import DistanceBias, IntervalBias, IntervalClasses, unused

_HAS_TRITON = find_spec("triton") is not None


# Not compiled: the numbers of rectangles and histories differ from batch to batch.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(
    packed: Tensor,
    batch: Batch,
    *,
    order: tuple[int, int, int] = (0, 1, 2),
    heads: int,
    activation: Activation,
    causal: bool,
    distance: DistanceBias | None = None,
    interval: IntervalBias | None = None,
    intervals: IntervalClasses | None = None,
) -> Tensor:
    """[T, dim] attention, before the last projection. softmax: softmax(q kᵀ / √d + bias) v; silu:
    SiLU(q kᵀ / √d + bias) v / number of keys that the query sees; d is the width of a head.

    Args:
        packed: [T, 3 · dim] queries, keys and values.
        order: which third of ``packed`` the queries, keys and values are.
        distance, interval: biases.
        intervals: of the batch, if there is an ``interval`` bias.
    """
    if not batch.buckets:  # no interaction on this worker, but gradients are exchanged
        return packed[:, : packed.shape[1] // 3] + unused(distance, interval)
    if not (packed.is_cuda and _HAS_TRITON):
        return padded.attend(
            packed, batch, order, heads, activation=activation, causal=causal, distance=distance,
            interval=interval, intervals=intervals,
        )  # fmt: skip
    longest, plain = batch.buckets[0].length, distance is None and interval is None
    if plain and activation == "softmax" and packed.dtype in (torch.bfloat16, torch.float16):
        return varlen.attend(packed, order, heads, batch.offsets, longest, causal=causal)
    return jagged.attend(
        packed, order, heads,
        jagged.Histories(batch.offsets, longest, None if intervals is None else intervals.seconds),
        jagged.Biases(
            None if distance is None else distance.table,
            None if interval is None else interval.table,
            0 if distance is None else distance.longest,
        ),
        activation=activation, causal=causal,
    )  # fmt: skip
