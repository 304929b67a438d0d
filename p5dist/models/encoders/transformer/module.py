"""Transformer over concatenated histories."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.data.batch import Batch
from p5dist.models.dropout import HashedDropout, Site
from p5dist.models.encoders.attention.attend import attend
from p5dist.models.encoders.bias import IntervalBias, IntervalClasses
from p5dist.models.encoders.positions import LearnedPositions, RotaryPositions
from p5dist.models.encoders.transformer import Transformer as Config


class TransformerEncoder(nn.Module):
    """Pre-norm transformer: causal (SASRec, Kang and McAuley 2018) or bidirectional (BERT4Rec, Sun
    et al. 2019).

    Norms, projections and feed-forward work on the T real interactions; only the attention itself
    pads, inside buckets of nearly equal length.
    """

    def __init__(self, config: Config, *, dim: int, max_length: int, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        self.positions = (
            LearnedPositions(
                max_length, dim, causal=causal, from_end=config.positions == "learned_from_end"
            )
            if config.positions.startswith("learned")
            else None
        )
        self.time_intervals = config.time_intervals
        self.dropout = HashedDropout(config.dropout, site=Site.ENCODER)
        self.layers = nn.ModuleList(
            Layer(config, dim, i, max_length, causal) for i in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """States [T, dim] of interactions with vectors ``x`` [T, dim]; the state at t depends on
        the interactions of the same history, up to t if causal."""
        return self.states_at(x, batch, None)

    def states_at(self, x: Tensor, batch: Batch, at: Tensor | None) -> Tensor:
        """[n, dim] the states of the interactions ``at`` [n]; None: of all. What the last layer
        does after attention is done for these only."""
        if self.positions is not None:
            x = self.positions(x, batch)
        x = self.dropout(x, batch.dropout_key)
        intervals = IntervalClasses(batch, causal=self.causal) if self.time_intervals else None
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, batch, intervals, at if number == len(self.layers) else None)
        states: Tensor = self.norm(x)
        return states


class Layer(nn.Module):
    """Attention and feed-forward, each after a norm and added to its input."""

    def __init__(
        self, config: Config, dim: int, number: int, max_length: int, causal: bool
    ) -> None:
        super().__init__()
        self.attention = Attention(config, dim, max_length, causal)
        width = config.ffn_dim or 4 * dim
        self.attention_norm = nn.LayerNorm(dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, width)
        self.down = nn.Linear(width, dim)
        self.attention_dropout = HashedDropout(config.dropout, site=Site.ENCODER + 2 * number + 1)
        self.ffn_dropout = HashedDropout(config.dropout, site=Site.ENCODER + 2 * number + 2)

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        intervals: IntervalClasses | None,
        at: Tensor | None = None,
    ) -> Tensor:
        """[T, dim] → [T, dim], or [n, dim] of the interactions ``at`` [n]."""
        attended = self.attention(self.attention_norm(x), batch, intervals, at)
        key = batch.dropout_key
        if at is not None:
            x, key = x[at], key[at]
        x = x + self.attention_dropout(attended, key)
        hidden = self.down(F.gelu(self.up(self.ffn_norm(x))))
        out: Tensor = x + self.ffn_dropout(hidden, key)
        return out


class Attention(nn.Module):
    """Softmax attention of every interaction over its history, up to the interaction if causal."""

    def __init__(self, config: Config, dim: int, max_length: int, causal: bool) -> None:
        super().__init__()
        self.heads = config.heads
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.rotary = (
            RotaryPositions(max_length, dim // config.heads)
            if config.positions == "rotary"
            else None
        )
        self.interval_bias = IntervalBias(config.heads) if config.time_intervals else None

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        intervals: IntervalClasses | None,
        at: Tensor | None = None,
    ) -> Tensor:
        """[T, dim] → [T, dim], or [n, dim] of the interactions ``at`` [n]."""
        qkv = self.qkv(x)
        if self.rotary is not None:
            qkv = self.rotary(qkv, self.heads, batch.position)
        attended = attend(
            qkv, batch, heads=self.heads, activation="softmax", causal=self.causal,
            interval=self.interval_bias, intervals=intervals,
        )  # fmt: skip
        out: Tensor = self.out(attended if at is None else attended[at])
        return out
