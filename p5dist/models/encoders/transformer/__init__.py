"""The transformer encoder, causal or bidirectional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from p5dist.config.base import Column
from p5dist.models.encoders.encoder import Encoder

if TYPE_CHECKING:
    from torch import nn

Dropout = Annotated[float, Field(ge=0, lt=1)]


class Transformer(Encoder):
    """Pre-norm transformer: causal (SASRec, Kang and McAuley 2018) or, where the objective hides
    items, bidirectional (BERT4Rec, Sun et al. 2019)."""

    sees_both_sides = True
    without_columns = "set model.encoder.time_intervals to false"
    kind: Literal["transformer"] = "transformer"
    layers: PositiveInt = 2
    """Number of blocks."""
    heads: PositiveInt = 2
    """Attention heads of a block; model.dim must be a multiple."""
    ffn_dim: PositiveInt | None = None
    """Width of the feed-forward part; left out: 4 · dim."""
    positions: Literal["learned", "learned_from_end", "rotary", "none"] = "learned"
    """learned: a vector per position, counted from the first interaction; learned_from_end: counted
    from the last interaction, as SASRec with its left padding; rotary: RoPE (Su et al. 2021)."""
    time_intervals: bool = False
    """Attention also depends on the time between two interactions: a learned bias per head for
    each doubling of the seconds (after TiSASRec, Li et al. 2020)."""
    dropout: Dropout = 0.2
    """Dropout of the input and of the outputs of attention and feed-forward."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return ("timestamp",) if self.time_intervals else ()

    def check(self, dim: int) -> None:
        check_heads(dim, self.heads)
        if self.positions == "rotary" and dim // self.heads % 2:
            raise ValueError(
                f"encoder.positions rotary turns pairs of channels, but a head has "
                f"{dim // self.heads} channels (dim {dim} / heads {self.heads}): make them even"
            )

    def build(self, *, dim: int, max_length: int, causal: bool) -> nn.Module:
        from p5dist.models.encoders.transformer.module import TransformerEncoder

        return TransformerEncoder(self, dim=dim, max_length=max_length, causal=causal)

    def layer_count(self) -> int:
        return self.layers


def check_heads(dim: int, heads: int) -> None:
    """Raise ValueError if the width cannot be divided among the heads."""
    if dim % heads:
        raise ValueError(f"dim {dim} must be a multiple of encoder.heads {heads}")
