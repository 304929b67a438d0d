"""Each encoder against its formulas; test_encoder_contract.py tests the common contract."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.models.encoders.bias import INTERVALS, IntervalClasses, interval_class
from p5dist.models.encoders.hstu import Hstu
from p5dist.models.encoders.mean import Mean
from p5dist.models.encoders.transformer import Transformer
from p5dist.models.encoders.transformer.module import Attention
from tests.models.test_encoder_contract import DIM, LENGTHS, MAX_LENGTH, batch_of, build

CONFIGS = {
    "transformer": Transformer(),
    "from_end": Transformer(positions="learned_from_end"),
    "hstu": Hstu(kind="hstu"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_ranking_reads_no_position_that_training_never_moves(name: str) -> None:
    model = build(CONFIGS[name].model_copy(update={"dropout": 0.0}))
    x, batch = torch.randn(MAX_LENGTH, DIM), batch_of([MAX_LENGTH])
    model.train()(x, batch)[:-1].square().sum().backward()
    asked = model.eval()(x, batch)[-1]
    distances = [p for n, p in model.named_parameters() if "distance_bias" in n]
    assert len(distances) == (2 if name == "hstu" else 0)
    with torch.no_grad():
        for table in (model.positions.table, *distances):
            never = table.grad == 0
            table[never] += torch.randn(int(never.sum()))
    assert torch.allclose(model(x, batch)[-1], asked, atol=1e-5)


def plain_attention(qkv: Tensor, heads: int, causal: bool, bias: Tensor) -> Tensor:
    """Softmax(q kᵀ / √d + bias + mask) v for one history [L, 3d]; bias [heads, L, L]."""
    q, k, v = (x.view(len(qkv), heads, -1).transpose(0, 1) for x in qkv.chunk(3, dim=1))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias
    mask = torch.triu(torch.ones(len(qkv), len(qkv), dtype=torch.bool), diagonal=1) & causal
    out = F.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v
    return out.transpose(0, 1).reshape(len(qkv), -1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("intervals", [True, False])
def test_softmax_attention_is_the_formula_history_by_history(causal: bool, intervals: bool) -> None:
    config = Transformer(heads=2, time_intervals=intervals, positions="none")
    attention = Attention(config, DIM, 40, causal)
    batch = batch_of(LENGTHS)
    x = torch.randn(sum(LENGTHS), DIM)
    classes = None
    if attention.interval_bias is not None:
        nn.init.normal_(attention.interval_bias.table)
        classes = IntervalClasses(batch, causal=causal)
    parts = []
    begin = 0
    for qkv in attention.qkv(x).split(sorted(LENGTHS, reverse=True)[:-1]):
        bias = torch.zeros(2, len(qkv), len(qkv))
        if attention.interval_bias is not None:
            t = batch.timestamp[begin : begin + len(qkv)].double() / 1e6
            gap = (t.unsqueeze(0) - t.unsqueeze(1)).abs()
            bias = attention.interval_bias.table[:, torch.log2(1 + gap).floor().long()]
        parts.append(plain_attention(qkv, 2, causal, bias))
        begin += len(qkv)
    expected = attention.out(torch.cat(parts))
    assert torch.allclose(attention(x, batch, classes), expected, atol=1e-5)


def test_interval_classes_double() -> None:
    seconds = torch.tensor([0, 0.9, 1, 2, 3, 6.5, 7, 8, -3, 86_400, 2**40], dtype=torch.float64)
    assert interval_class(seconds).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 2, 16, INTERVALS - 1]


def test_hstu_is_its_formula() -> None:
    model = build(Hstu(kind="hstu", layers=1, heads=2))
    batch = batch_of([6])
    x = torch.randn(6, DIM)
    layer = model.layers[0]
    h = x + model.positions.table[:6]
    u, v, q, k = F.silu(layer.uvqk(layer.norm(h))).split(DIM, dim=1)
    out = torch.zeros(6, DIM)
    for head in (slice(0, 4), slice(4, 8)):
        for i in range(6):
            for j in range(i + 1):
                gap = abs(int(batch.timestamp[i] - batch.timestamp[j])) // 1_000_000
                score = (
                    (q[i, head] @ k[j, head]) / 2
                    + layer.distance_bias.table[0, i - j + 39]
                    + layer.interval_bias.table[0, (gap + 1).bit_length() - 1]
                )
                out[i, head] += F.silu(score) * v[j, head] / (i + 1)
    expected = model.norm(h + layer.out(layer.attention_norm(out) * u))
    assert torch.allclose(model(x, batch), expected, atol=1e-5)


def test_mean_of_the_last_three() -> None:
    model = build(Mean(kind="mean", last=3))
    x = torch.randn(7, DIM)
    expected = [x[:1], x[:2], x[:3], x[1:4], x[2:5], x[5:6], x[5:7]]
    means = torch.stack([part.mean(0) for part in expected])
    assert torch.allclose(model(x, batch_of([5, 2])), model.norm(means), atol=1e-6)


def test_rotary_attention_depends_on_the_distance_only() -> None:
    """The same two interactions, moved to later positions, have the same score."""
    config = Transformer(heads=1, positions="rotary")
    attention = Attention(config, DIM, 40, True)
    assert attention.rotary is not None
    q, k = torch.randn(2, 1, 1, DIM).expand(2, 3, 1, DIM)
    qkv = torch.cat([q, k, k], dim=2).squeeze(1)
    turned_q = attention.rotary(qkv, 1, torch.tensor([5, 9, 9]))[:, :DIM]
    turned_k = attention.rotary(qkv, 1, torch.tensor([2, 6, 2]))[:, DIM : 2 * DIM]
    products = (turned_q * turned_k).sum(1)
    assert products[0] == pytest.approx(float(products[1]), rel=1e-4)
    assert abs(float(products[0] - products[2])) > 1e-3
