"""Attention by PyTorch's FlashAttention over histories that lie one after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(
    packed: Tensor,
    order: tuple[int, int, int],
    heads: int,
    offsets: Tensor,
    longest: int,
    *,
    causal: bool,
) -> Tensor:
    """[T, dim], as :func:`.attend.attend` for the softmax without biases.

    Args:
        packed: [T, 3 · dim] in half precision.
        offsets: [B + 1]
        longest: interactions of the longest history.
    """
    from torch.nn.attention.varlen import varlen_attn

    thirds = packed.view(len(packed), 3, heads, -1)
    q, k, v = (thirds[:, place] for place in order)
    ends = offsets.to(torch.int32)
    window = (-1, 0) if causal else (-1, -1)
    found = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=window)
    assert isinstance(found, Tensor)
    return found.flatten(1)
