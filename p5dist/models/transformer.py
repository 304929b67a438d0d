"""Transformer over histories that lie one after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.batch import Batch
from p5dist.config.model import TransformerEncoder as Config
from p5dist.models.dropout import HashedDropout


class TransformerEncoder(nn.Module):
    """Pre-norm transformer with learned positions: causal (SASRec, Kang and McAuley 2018) or
    bidirectional (BERT4Rec, Sun et al. 2019).

    Norms, projections and feed-forward work on the T real interactions; only the attention itself
    pads, inside buckets of nearly equal length.
    """

    def __init__(self, config: Config, *, dim: int, max_length: int, causal: bool = True) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(max_length, dim))
        self.dropout = HashedDropout(config.dropout, site=0)
        self.layers = nn.ModuleList(Layer(config, dim, i, causal) for i in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """States [T, dim] of interactions with vectors ``x`` [T, dim]; the state at t depends on
        the interactions of the same history, up to t if causal."""
        x = self.dropout(x + self.positions[batch.position], batch.dropout_key)
        for layer in self.layers:
            x = layer(x, batch)
        states: Tensor = self.norm(x)
        return states


class Layer(nn.Module):
    """Attention and feed-forward, each after a norm and added to its input."""

    def __init__(self, config: Config, dim: int, number: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.heads = config.heads
        width = config.ffn_dim or 4 * dim
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, width)
        self.down = nn.Linear(width, dim)
        self.attention_dropout = HashedDropout(config.dropout, site=2 * number + 1)
        self.ffn_dropout = HashedDropout(config.dropout, site=2 * number + 2)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """[T, dim] → [T, dim]"""
        qkv = self.qkv(self.attention_norm(x))
        attended = self.out(attention(qkv, self.heads, batch, causal=self.causal))
        x = x + self.attention_dropout(attended, batch.dropout_key)
        hidden = self.down(F.gelu(self.up(self.ffn_norm(x)), approximate="tanh"))
        out: Tensor = x + self.ffn_dropout(hidden, batch.dropout_key)
        return out


def attention(qkv: Tensor, heads: int, batch: Batch, *, causal: bool) -> Tensor:
    """Softmax attention of every interaction over those of its history, up to it if causal.

    Args:
        qkv: [T, 3 · dim] queries, keys and values.

    Returns:
        [T, dim]
    """
    outputs = []
    for bucket in batch.buckets:
        slot = batch.slot[bucket.tokens]
        area = bucket.histories * bucket.length
        padded = qkv.new_zeros(area, qkv.shape[1]).index_copy(0, slot, qkv[bucket.tokens])
        q, k, v = padded.view(bucket.histories, bucket.length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        # Padding is at the end, where a causal mask hides it from every real interaction.
        mask = None
        if not causal:
            real = torch.zeros(area, dtype=torch.bool, device=qkv.device)
            real[slot] = True
            mask = real.view(bucket.histories, 1, 1, bucket.length)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        outputs.append(out.transpose(1, 2).reshape(area, -1)[slot])
    if not outputs:  # no interaction on this worker
        return qkv[:, : qkv.shape[1] // 3]
    return torch.cat(outputs)
