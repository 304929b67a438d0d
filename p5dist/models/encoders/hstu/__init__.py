"""The HSTU encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from p5dist.config.base import Column
from p5dist.models.encoders.encoder import Encoder
from p5dist.models.encoders.transformer import check_heads

if TYPE_CHECKING:
    from torch import nn


class Hstu(Encoder):
    """Gated attention without softmax, with biases for distance and time (HSTU, Zhai et al.
    2024)."""

    sees_both_sides = True
    without_columns = "set model.encoder.time_intervals to false"
    kind: Literal["hstu"]
    layers: PositiveInt = 2
    """Number of blocks."""
    heads: PositiveInt = 2
    """Attention heads of a block; model.dim must be a multiple."""
    time_intervals: bool = True
    """Learn a bias for each doubling of the seconds between two interactions."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout of the inputs and in each block."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return ("timestamp",) if self.time_intervals else ()

    def check(self, dim: int) -> None:
        check_heads(dim, self.heads)

    def build(self, *, dim: int, max_length: int, causal: bool) -> nn.Module:
        from p5dist.models.encoders.hstu.module import HstuEncoder

        return HstuEncoder(self, dim=dim, max_length=max_length, causal=causal)

    def layer_count(self) -> int:
        return self.layers
