"""The mean of a history's interactions (as in YouTube's candidate model, Covington et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from p5dist.data.batch import Batch
from p5dist.models.dropout import HashedDropout, Site
from p5dist.models.encoders.mean import Mean as Config


class MeanEncoder(nn.Module):
    """The state at t is the layer norm of the mean of the last interactions up to t, at most
    ``last`` of them."""

    def __init__(self, config: Config, *, dim: int, max_length: int, causal: bool = True) -> None:
        super().__init__()
        assert causal, "the config forbids objectives that hide interactions"
        self.last = min(config.last or max_length, max_length)
        self.dropout = HashedDropout(config.dropout, site=Site.ENCODER)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """States [T, dim] of interactions with vectors ``x`` [T, dim]."""
        x = self.dropout(x, batch.dropout_key)
        # A running sum over all histories; in double, so that rounding does not make a state depend
        # on the histories before its own.
        sums = torch.cat([x.new_zeros(1, x.shape[1], dtype=torch.double), x.double().cumsum(0)])
        count = (batch.position + 1).clamp(max=self.last)
        end = torch.arange(1, x.shape[0] + 1, device=x.device)
        total = sums[1:] - sums.index_select(0, end - count)
        states: Tensor = self.norm((total / count.unsqueeze(1)).to(x.dtype))
        return states
