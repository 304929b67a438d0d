"""Attention by the kernels: no padding, no scores in memory, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from p5dist.models.precision import factor_type

Activation = Literal["softmax", "silu"]


@dataclass(frozen=True)
class Histories:
    """Where the histories of a batch lie."""

    offsets: Tensor
    """[B + 1] int64"""
    longest: int
    """Interactions of the longest history."""
    seconds: Tensor | None
    """[T] float64 times; None: attention does not depend on them."""


@dataclass(frozen=True)
class Biases:
    """Learned numbers that are added to the scores."""

    distance: Tensor | None
    """[1, 2 · max_length - 1] by distance in position, from -(max_length - 1)."""
    interval: Tensor | None
    """[1 or heads, 33] by class of time difference."""
    longest: int
    """Distance whose bias all longer distances have."""


def attend(
    packed: Tensor,
    order: tuple[int, int, int],
    heads: int,
    histories: Histories,
    biases: Biases,
    *,
    activation: Activation,
    causal: bool,
) -> Tensor:
    """[T, dim] attention of every interaction over its history.

    Args:
        packed: [T, 3 · dim] queries, keys and values.
        order: which third of ``packed`` the queries, keys and values are.
    """
    settings = _Settings(order, heads, biases.longest, activation == "softmax", causal)
    found: Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
        packed, biases.distance, biases.interval, histories, settings
    )
    return found


@dataclass(frozen=True)
class _Settings:
    order: tuple[int, int, int]
    heads: int
    longest: int
    softmax: bool
    causal: bool


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any,
        packed: Tensor,
        distance: Tensor | None,
        interval: Tensor | None,
        histories: Histories,
        settings: _Settings,
    ) -> Tensor:
        from p5dist.models.encoders.attention.kernels import attend_forward

        packed = packed.to(factor_type(packed)).contiguous()
        call = _Call(packed, distance, interval, histories, settings)
        out = packed.new_empty(len(packed), call.width * settings.heads)
        log_sum = None
        if settings.softmax:
            log_sum = packed.new_empty(len(packed), settings.heads, dtype=torch.float32)
        call.run(attend_forward, call.tile_m, *call.qkv(packed), out, log_sum, *call.shared())
        ctx.save_for_backward(packed, distance, interval, out, log_sum)
        ctx.histories, ctx.settings = histories, settings
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        from p5dist.models.encoders.attention.kernels import (
            COPIES,
            attend_backward_keys,
            attend_backward_queries,
        )

        packed, distance, interval, out, log_sum = ctx.saved_tensors
        call = _Call(packed, distance, interval, ctx.histories, ctx.settings)
        grad, delta = grad.contiguous().to(out.dtype), None
        if log_sum is not None:
            of_heads = (grad.float() * out.float()).view(len(grad), ctx.settings.heads, -1)
            delta = of_heads.sum(2)
        of_packed = torch.empty_like(packed)
        of_q, of_k, of_v = call.qkv(of_packed)
        copies = int(COPIES.value)
        of_distance = None if distance is None else _zeros(copies, distance)
        of_interval = None if interval is None else _zeros(copies, interval)
        read = (*call.qkv(packed), grad, log_sum, delta, *call.shared())
        sizes = [0 if t is None else t.numel() for t in (distance, interval)]
        call.run(
            attend_backward_keys, call.tile_n, *read, of_k, of_v, of_distance, of_interval,
            more=sizes,
        )  # fmt: skip
        call.run(attend_backward_queries, call.tile_m, *read, of_q)
        return (
            of_packed,
            None if of_distance is None else of_distance.sum(0).view_as(distance),
            None if of_interval is None else of_interval.sum(0).view_as(interval),
            None,
            None,
        )


def _zeros(copies: int, table: Tensor) -> Tensor:
    return torch.zeros(copies, table.numel(), device=table.device)


class _Call:
    """The arguments that all kernels share."""

    def __init__(
        self,
        packed: Tensor,
        distance: Tensor | None,
        interval: Tensor | None,
        histories: Histories,
        settings: _Settings,
    ) -> None:
        self._settings, self._histories = settings, histories
        self._distance = None if distance is None else distance.contiguous()
        self._interval = None if interval is None else interval.contiguous()
        self._stride = packed.shape[1]
        self.width = packed.shape[1] // 3 // settings.heads
        self._padded = max(1 << (self.width - 1).bit_length(), 16)
        tile = 32 if packed.dtype == torch.float32 else 64
        self.tile_m = self.tile_n = tile
        # Products of float32 as PyTorch's own: in TF32 only where the process allows it.
        exact = torch.get_float32_matmul_precision() == "highest"
        self._precision = "ieee" if exact else "tf32"

    def qkv(self, packed: Tensor) -> list[Tensor]:
        """The three thirds of a packed tensor."""
        dim = packed.shape[1] // 3
        return [packed[:, place * dim : (place + 1) * dim] for place in self._settings.order]

    def shared(self) -> tuple[Tensor | None, ...]:
        """Offsets, times and biases."""
        histories = self._histories
        return histories.offsets, histories.seconds, self._distance, self._interval

    def run(self, kernel: Any, tile: int, *tensors: Any, more: list[int] | None = None) -> None:
        """Run a kernel with one program a tile, history and head."""
        settings, histories = self._settings, self._histories
        tiles = -(-histories.longest // tile)
        programs = (len(histories.offsets) - 1) * settings.heads
        if not tiles or not programs:
            return
        per_head = self._interval is not None and len(self._interval) > 1
        middle = 0 if self._distance is None else self._distance.numel() // 2
        kernel[(programs, tiles)](
            *tensors, self._stride, self._stride // 3, 33 if per_head else 0, settings.heads,
            self.width, settings.longest, middle, self.width**-0.5, *(more or ()),
            SOFTMAX=settings.softmax, CAUSAL=settings.causal,
            HAS_DISTANCE=self._distance is not None, HAS_INTERVAL=self._interval is not None,
            PRECISION=self._precision, D=self._padded, M=self.tile_m, N=self.tile_n,
            num_warps=8 if self._padded > 64 else 4,
        )  # fmt: skip
