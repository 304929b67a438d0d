"""Networks over feature vectors of equal width that end in one logit."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class DotInteraction(nn.Module):
    """Products of all pairs of feature vectors beside the first vector, then a network (DLRM,
    Naumov et al. 2019).

    Args:
        features: F, vectors of an example.
        width: of each.
        hidden: widths of the network.
    """

    def __init__(self, features: int, width: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.pairs: Tensor
        self.register_buffer(
            "pairs", torch.tril_indices(features, features, offset=-1), persistent=False
        )
        self.top = mlp(width + self.pairs.shape[1], *hidden, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """[M, F, width] → [M] logits"""
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        pairs = products[:, self.pairs[0], self.pairs[1]]
        logits: Tensor = self.top(torch.cat([vectors[:, 0], pairs], dim=1)).squeeze(1)
        return logits


class CrossNetwork(nn.Module):
    """Cross layers ``x ← x₀ ⊙ (W x + b) + x`` beside a deep network (DCN-V2, Wang et al. 2021).

    Args:
        features, width, hidden: as for :class:`DotInteraction`.
        layers: cross layers.
        rank: of each W = U V; None: full.
    """

    def __init__(
        self, features: int, width: int, hidden: tuple[int, ...], *, layers: int, rank: int | None
    ) -> None:
        super().__init__()
        size = features * width
        self.cross = nn.ModuleList(
            nn.Linear(size, size)
            if rank is None
            else nn.Sequential(nn.Linear(size, rank, bias=False), nn.Linear(rank, size))
            for _ in range(layers)
        )
        self.deep = mlp(size, *hidden)
        self.out = nn.Linear(size + hidden[-1] if hidden else 2 * size, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """[M, F, width] → [M] logits"""
        first = x = vectors.flatten(1)
        for layer in self.cross:
            x = first * layer(x) + x
        logits: Tensor = self.out(torch.cat([x, torch.relu(self.deep(first))], dim=1)).squeeze(1)
        return logits


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.ReLU(), nn.Linear(inner, outer)]
    return nn.Sequential(*layers[1:])
