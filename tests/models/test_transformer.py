"""The encoder on jagged histories against one history at a time."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p5dist.config.model import TransformerEncoder as Config
from p5dist.feed.collate import Collate
from p5dist.models.transformer import TransformerEncoder, attention
from tests.feed.test_histories import histories

LENGTHS = [1, 30, 7, 0, 22, 2, 30, 19]


def encoder() -> TransformerEncoder:
    torch.manual_seed(0)
    return TransformerEncoder(Config(layers=2, heads=2), dim=8, max_length=40).eval()


def batch_of(lengths: list[int]):  # type: ignore[no-untyped-def]
    return Collate(1)(histories([[1] * n for n in lengths]))


def plain_attention(qkv: Tensor, heads: int) -> Tensor:
    """Softmax(q kᵀ / √d + mask) v for one history [L, 3d]."""
    q, k, v = (x.view(len(qkv), heads, -1).transpose(0, 1) for x in qkv.chunk(3, dim=1))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    mask = torch.triu(torch.ones(len(qkv), len(qkv), dtype=torch.bool), diagonal=1)
    out = F.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v
    return out.transpose(0, 1).reshape(len(qkv), -1)


def test_attention_in_buckets_is_attention_history_by_history() -> None:
    batch = batch_of(LENGTHS)
    qkv = torch.randn(sum(LENGTHS), 24)
    parts = [plain_attention(x, 2) for x in qkv.split(sorted(LENGTHS, reverse=True)) if len(x)]
    assert torch.allclose(attention(qkv, 2, batch, causal=True), torch.cat(parts), atol=1e-6)


def test_states_do_not_depend_on_the_other_histories_of_the_batch() -> None:
    model = encoder()
    x = torch.randn(sum(LENGTHS), 8)
    together = model(x, batch_of(LENGTHS))
    begin = 0
    for length in sorted(LENGTHS, reverse=True):
        end = begin + length
        alone = model(x[begin:end], batch_of([length]))
        assert torch.allclose(together[begin:end], alone, atol=1e-5)
        begin = end


def test_a_state_sees_no_later_interaction() -> None:
    model = encoder()
    x = torch.randn(12, 8)
    changed = x.clone()
    changed[7:] = 0
    batch = batch_of([12])
    assert torch.allclose(model(x, batch)[:7], model(changed, batch)[:7], atol=1e-6)
    assert not torch.allclose(model(x, batch)[7], model(changed, batch)[7], atol=1e-3)


def test_no_interaction_at_all_still_has_gradients() -> None:
    """A worker without histories takes part in the exchange of gradients."""
    model = encoder()
    empty = Collate(1)(histories([[]]).take(np.zeros(0, dtype=np.int64)))
    model(torch.zeros(0, 8), empty).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
