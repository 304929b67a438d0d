"""An encoder: the weighted mean of the interactions so far, with smaller weights for older ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from p5dist.models.encoders.encoder import Encoder

if TYPE_CHECKING:
    from torch import nn


class Fading(Encoder):
    """An exponentially decaying mean of the interactions so far."""

    adaptable = False
    half_life: PositiveFloat = 5.0
    """Interactions after which one counts half."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the inputs."""

    def build(self, *, dim: int, max_length: int, causal: bool) -> nn.Module:
        import torch
        from torch import Tensor, nn

        from p5dist.data.batch import Batch
        from p5dist.models.dropout import HashedDropout, Site
        from p5dist.models.encoders.attention.rectangles import from_rectangles, to_rectangles

        class FadingEncoder(nn.Module):
            """The state at t is the norm of the sum of x[s] · w[t, s], w from the half-life."""

            def __init__(self, config: Fading) -> None:
                super().__init__()
                self.half_life = config.half_life
                self.dropout = HashedDropout(config.dropout, site=Site.ENCODER)
                self.norm = nn.LayerNorm(dim)

            def forward(self, x: Tensor, batch: Batch) -> Tensor:
                x = self.dropout(x, batch.dropout_key)
                if batch.buckets:
                    # Histories of nearly equal length lie in a rectangle [histories, length, dim].
                    rectangles = [self.weights(part) @ part for part in to_rectangles(x, batch)]
                    x = from_rectangles(rectangles, batch)
                states: Tensor = self.norm(x)
                return states

            def weights(self, part: Tensor) -> Tensor:
                """[length, length] of each earlier interaction in each state."""
                place = torch.arange(part.shape[1], device=part.device, dtype=part.dtype)
                age = place.unsqueeze(1) - place
                weight = torch.exp2(-age.clamp(min=0) / self.half_life) * (age >= 0)
                return weight / weight.sum(1, keepdim=True)

        return FadingEncoder(self)
