"""The backbone: tables and encoder, shared by pre-training and all tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from p5dist.batch import Batch
from p5dist.config.model import Model
from p5dist.manifest import Manifest
from p5dist.models.tables import ItemTables
from p5dist.models.transformer import TransformerEncoder


@dataclass(frozen=True)
class Encoded:
    """What objectives and tasks work on."""

    states: Tensor
    """[T, dim] one per interaction, from the history up to it"""
    items: Tensor
    """[U, dim] vectors of the distinct items of the batch"""


class Recommender(nn.Module):
    """Item tables and an encoder over histories.

    Args:
        config: the model section.
        manifest: sizes of the id spaces, and the range of ratings.
        max_length: longest history.
        device: of the tables (``meta`` before sharding); the dense part is on CPU.
        bidirectional: the state of an interaction also sees the later ones of its history, as an
            objective that hides interactions needs it; such a backbone has a vector for what is
            hidden.
    """

    def __init__(
        self,
        config: Model,
        manifest: Manifest,
        *,
        max_length: int,
        device: torch.device,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        attributes = {name: manifest.item_attributes[name] for name in config.item_attributes}
        self.items = ItemTables(manifest.items, attributes, config.dim, device)
        self.encoder = TransformerEncoder(
            config.encoder, dim=config.dim, max_length=max_length, causal=not bidirectional
        )
        self.rating = RatingInput(config.dim, manifest) if config.rating_input else None
        self.scale = config.dim**0.5
        self.hidden = nn.Parameter(torch.zeros(config.dim)) if bidirectional else None
        if self.hidden is not None:
            nn.init.normal_(self.hidden, std=config.init_scale * self.scale)

    def forward(self, batch: Batch, hidden: Tensor | None = None) -> Encoded:
        """States of all interactions and vectors of all items of ``batch``.

        Args:
            hidden: [T] bool: interactions of which the encoder sees the position only.
        """
        items = self.items(batch.items, batch.item_attributes)
        x = items[batch.token] * self.scale
        if self.rating is not None:
            x = x + self.rating(batch.rating)
        if hidden is not None:
            assert self.hidden is not None, "only a bidirectional backbone hides interactions"
            x = torch.where(hidden.unsqueeze(1), self.hidden, x)
        return Encoded(self.encoder(x, batch), items)


class RatingInput(nn.Module):
    """The rating of an interaction as a vector: linear in the rating, zero where there is none."""

    def __init__(self, dim: int, manifest: Manifest) -> None:
        super().__init__()
        low, high = manifest.rating_range or (0.0, 1.0)
        self.mean = manifest.rating_mean or 0.0
        self.half_range = max((high - low) / 2, 1e-6)
        self.project = nn.Linear(2, dim, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)

    def forward(self, rating: Tensor) -> Tensor:
        """[T] → [T, dim]"""
        known = ~torch.isnan(rating)
        centred = torch.where(known, (rating - self.mean) / self.half_range, 0.0)
        projected: Tensor = self.project(torch.stack([known.to(centred.dtype), centred], dim=1))
        return projected
