"""Position embeddings: the position of an interaction in its history."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function

from p5dist.data.batch import Batch


class LearnedPositions(nn.Module):
    """A learned vector per position, added to the input.

    In causal training the last interaction of a history is only a target: its state is never read,
    so the last position of a full history would stay untrained. Ranking reads the state of the last
    interaction. Therefore a causal model counts from the end without the target in training, and
    the last position of a full history has the vector of the last but one.

    Args:
        causal: every state predicts the next item.
        from_end: count from the last interaction, as left-padded histories do (SASRec, Kang and
            McAuley 2018).
    """

    def __init__(self, max_length: int, dim: int, *, causal: bool, from_end: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.from_end = from_end
        self.table = nn.Parameter(torch.empty(max_length, dim))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """[T, dim] → [T, dim]"""
        position = batch.position
        if self.from_end:
            last = torch.diff(batch.offsets) - (2 if self.causal and self.training else 1)
            position = last[batch.owner] - position
        if self.causal:
            position = position.clamp(0, max(len(self.table) - 2, 0))
        return x + F.embedding(position, self.table)


class RotaryPositions(nn.Module):
    """Rotates queries and keys by angles that grow with the position, so that their product
    depends on the distance (RoFormer, Su et al. 2021).

    Args:
        head_dim: width of a head; even.
    """

    def __init__(self, max_length: int, head_dim: int) -> None:
        super().__init__()
        rate = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.outer(torch.arange(max_length, dtype=torch.float32), rate)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, qkv: Tensor, heads: int, position: Tensor) -> Tensor:
        """``qkv`` [T, 3 · heads · head_dim] with queries and keys rotated by the angles of
        ``position`` [T]; channels i and i + head_dim / 2 are one pair of coordinates."""
        cos = self.cos.index_select(0, position).unsqueeze(1)
        sin = self.sin.index_select(0, position).unsqueeze(1)
        turned: Tensor = _Turn.apply(qkv, cos, sin, heads)  # type: ignore[no-untyped-call]
        return turned


class _Turn(Function):
    # Copies qkv once; the gradient is the inverse rotation, with one more copy.

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return _turned(qkv, cos, sin, heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin, ctx.heads), None, None, None


def _turned(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    out = qkv.clone()
    shape = (qkv.shape[0], 2 * heads, 2, cos.shape[-1])
    width = 2 * heads * 2 * cos.shape[-1]
    a, b = qkv[:, :width].view(shape).unbind(2)
    turned_a, turned_b = out[:, :width].view(shape).unbind(2)
    turned_a.mul_(cos).addcmul_(b, sin, value=-1)
    turned_b.mul_(cos).addcmul_(a, sin)
    return out
