"""Networks over feature vectors of equal width with one output logit, built from layers of
TorchRec."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.models.dlrm import InteractionArch
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet
from torchrec.modules.mlp import MLP


class DotInteraction(nn.Module):
    """Inner products of all pairs of feature vectors, concatenated with the first vector, then a
    network (DLRM, Naumov et al. 2019).

    Args:
        features: F, number of feature vectors.
        width: of each vector.
        hidden: widths of the network.
    """

    def __init__(self, features: int, width: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.pairs = InteractionArch(features - 1)
        self.top = mlp(width + features * (features - 1) // 2, *hidden, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """[M, F, width] → [M] logits"""
        logits: Tensor = self.top(self.pairs(vectors[:, 0], vectors[:, 1:])).squeeze(1)
        return logits


class CrossNetwork(nn.Module):
    """Cross layers ``x ← x₀ ⊙ (W x + b) + x`` in parallel to a deep network (DCN-V2, Wang et al.
    2021).

    Args:
        features, width, hidden: as for :class:`DotInteraction`.
        layers: cross layers.
        rank: of each W = U V; None: full W.
    """

    def __init__(
        self, features: int, width: int, hidden: tuple[int, ...], *, layers: int, rank: int | None
    ) -> None:
        super().__init__()
        size = features * width
        self.cross = CrossNet(size, layers) if rank is None else LowRankCrossNet(size, layers, rank)
        self.deep = MLP(size, list(hidden))
        self.out = nn.Linear(size + (hidden[-1] if hidden else size), 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """[M, F, width] → [M] logits"""
        first = vectors.flatten(1)
        both = torch.cat([self.cross(first), self.deep(first)], dim=1)
        logits: Tensor = self.out(both).squeeze(1)
        return logits


def mlp(*widths: int) -> nn.Module:
    """Linear layers of the given widths with ReLU between the layers."""
    network: nn.Module = MLP(widths[0], list(widths[1:]), activation_on_last=False)
    return network
