"""HSTU (Zhai et al. 2024, "Actions Speak Louder than Words"): attention without softmax."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.data.batch import Batch
from p5dist.models.dropout import HashedDropout, Site
from p5dist.models.encoders.attention.attend import attend
from p5dist.models.encoders.bias import DistanceBias, IntervalBias, IntervalClasses
from p5dist.models.encoders.hstu import Hstu as Config
from p5dist.models.encoders.positions import LearnedPositions


class HstuEncoder(nn.Module):
    """Hierarchical sequential transduction units over histories."""

    def __init__(self, config: Config, *, dim: int, max_length: int, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        self.positions = LearnedPositions(max_length, dim, causal=causal)
        self.time_intervals = config.time_intervals
        self.dropout = HashedDropout(config.dropout, site=Site.ENCODER)
        self.layers = nn.ModuleList(
            Layer(config, dim, i, max_length, causal) for i in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """States [T, dim] of interactions with vectors ``x`` [T, dim]."""
        x = self.dropout(self.positions(x, batch), batch.dropout_key)
        intervals = IntervalClasses(batch, causal=self.causal) if self.time_intervals else None
        for layer in self.layers:
            x = layer(x, batch, intervals)
        states: Tensor = self.norm(x)
        return states


class Layer(nn.Module):
    """U, V, Q, K = SiLU(linear(norm(x))); A = SiLU(Q Kᵀ / √d + bias) / n; the output is
    x + linear(norm(A V) · U), with d the width of a head.

    The paper has no √d; the authors' published layers have it (``attn_alpha`` of
    generative-recommenders). The paper divides by the length of the sequence; here n is the number
    of interactions that the query sees, so that a state does not depend on the padded length.
    """

    def __init__(
        self, config: Config, dim: int, number: int, max_length: int, causal: bool
    ) -> None:
        super().__init__()
        self.heads = config.heads
        self.causal = causal
        self.norm = nn.LayerNorm(dim)
        self.uvqk = nn.Linear(dim, 4 * dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.distance_bias = DistanceBias(max_length, causal=causal)
        self.interval_bias = IntervalBias(1) if config.time_intervals else None
        self.dropout = HashedDropout(config.dropout, site=Site.ENCODER + number + 1)

    def forward(self, x: Tensor, batch: Batch, intervals: IntervalClasses | None) -> Tensor:
        """[T, dim] → [T, dim]"""
        dim = x.shape[1]
        uvqk = F.silu(self.uvqk(self.norm(x)))
        u, vqk = uvqk[:, :dim], uvqk[:, dim:]
        attended = attend(
            vqk, batch, order=(1, 2, 0), heads=self.heads, activation="silu", causal=self.causal,
            distance=self.distance_bias, interval=self.interval_bias, intervals=intervals,
        )  # fmt: skip
        gated = self.attention_norm(attended) * u
        out: Tensor = x + self.out(self.dropout(gated, batch.dropout_key))
        return out
