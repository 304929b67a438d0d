"""Encoders with mistakes, as users write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from p5dist.data.batch import Batch
from p5dist.models.encoders.encoder import Encoder


class WrongAtBuild(Encoder):
    """``build`` raises an AttributeError."""

    kind: str

    def build(self, *, dim: int, max_length: int, causal: bool) -> nn.Module:
        return nn.Linear(dim, self.width)  # type: ignore[attr-defined]


class WrongShape(Encoder):
    """The first step raises a RuntimeError of PyTorch, on the last worker only."""

    kind: str

    def build(self, *, dim: int, max_length: int, causal: bool) -> nn.Module:
        return _Narrow(dim)


class _Narrow(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        last = torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
        states: Tensor = self.linear(x[:, :3] if last else x)
        return states
