"""The encoder that takes the mean of a history's interactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from p5dist.models.encoders.encoder import Encoder

if TYPE_CHECKING:
    from torch import nn


class Mean(Encoder):
    """Mean of the interactions so far."""

    adaptable = False
    kind: Literal["mean"]
    last: PositiveInt | None = None
    """Number of most recent interactions in the mean; left out: all that the feed gives."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the inputs."""

    def build(self, *, dim: int, max_length: int, causal: bool) -> nn.Module:
        from p5dist.models.encoders.mean.module import MeanEncoder

        return MeanEncoder(self, dim=dim, max_length=max_length, causal=causal)
