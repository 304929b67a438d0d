"""Dropout masks: the right rate, independent elements, a function of the key alone."""

from __future__ import annotations

import torch

from p5dist.models.dropout import HashedDropout, hashed_bytes

KEYS = torch.randint(-(2**63), 2**63 - 1, (4000,), generator=torch.Generator().manual_seed(1))


def test_bytes_are_uniform_and_uncorrelated() -> None:
    drawn = hashed_bytes(KEYS, 62, site=0).double()
    assert drawn.shape == (4000, 62)
    counts = torch.bincount(drawn.long().flatten(), minlength=256).double()
    expected = drawn.numel() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 350  # chi-square, 255 degrees: p < 1e-4
    assert (drawn.mean(0) - 127.5).abs().max() < 6
    correlation = torch.corrcoef(drawn.T) - torch.eye(62)
    assert correlation.abs().max() < 0.08
    other = hashed_bytes(KEYS, 62, site=1).double()
    both = torch.corrcoef(torch.cat([drawn, other], dim=1).T)[:62, 62:]
    assert both.abs().max() < 0.08


def test_consecutive_keys_are_as_good() -> None:
    drawn = hashed_bytes(torch.arange(4000) + (5 << 32), 64, site=2).double()
    assert (torch.corrcoef(drawn.T) - torch.eye(64)).abs().max() < 0.08
    rows = torch.corrcoef(drawn[:200]) - torch.eye(200)
    assert rows.abs().max() < 0.65
    assert rows.abs().mean() < 0.12


def test_rate_and_scale() -> None:
    dropout = HashedDropout(0.25, site=0).train()
    out = dropout(torch.ones(4000, 64), KEYS)
    assert abs((out == 0).double().mean() - 0.25) < 0.005
    assert torch.allclose(out[out != 0], torch.tensor(1 / 0.75))
    assert torch.equal(dropout.eval()(torch.ones(4000, 64), KEYS), torch.ones(4000, 64))


def test_any_rate_drops_something_and_keeps_something() -> None:
    """Rates near 0 and 1 are neither nothing nor everything; what stays is scaled by 256 / 255 and
    by 256."""
    x = torch.ones(4000, 64)
    for rate, share in ((0.001, 1 / 256), (0.9995, 255 / 256)):
        out = HashedDropout(rate, site=0).train()(x, KEYS)
        assert abs((out == 0).double().mean() - share) < 0.0006
        assert torch.allclose(out[out != 0], torch.tensor(1 / (1 - share)))
    assert HashedDropout(0.0, site=0).threshold == 0


def test_a_token_is_dropped_the_same_way_in_any_batch() -> None:
    dropout = HashedDropout(0.5, site=3).train()
    x = torch.randn(100, 16)
    index = torch.randperm(100)
    assert torch.equal(dropout(x, KEYS[:100])[index], dropout(x[index], KEYS[:100][index]))
