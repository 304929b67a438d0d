"""The input of the encoder: for each interaction the sum of the vectors of its features."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.config.model import Model
from p5dist.data.batch import Batch
from p5dist.data.columns import SECOND
from p5dist.data.manifest import Manifest
from p5dist.models.dropout import Site, hashed_bytes, threshold
from p5dist.models.encoders.bias import INTERVALS, interval_class
from p5dist.models.tables import UserTables

_EVENTS = 128  # codes are int8
_HOUR, _DAY = 3600 * SECOND, 86_400 * SECOND
_STD = 0.02


class Inputs(nn.Module):
    """Item vectors → inputs of the encoder.

    The vector of the user is added to every interaction of a history instead of being a token
    before the history: every state sees the user either way, and positions, lengths and buckets do
    not change.

    Args:
        config: the model section.
        manifest: sizes of the id spaces, and the range of ratings.
        device: of the tables.
        hides: an objective hides interactions, so a mask vector is needed.
    """

    def __init__(
        self, config: Model, manifest: Manifest, *, device: torch.device, hides: bool
    ) -> None:
        super().__init__()
        inputs, dim = config.inputs, config.dim
        self.scale = dim**0.5
        self.item_threshold = threshold(inputs.item_dropout)
        self.rating = RatingInput(dim, manifest) if inputs.rating else None
        self.event = _table(_EVENTS, dim) if inputs.event else None
        self.gap = _table(INTERVALS + 1, dim) if inputs.time_gap else None
        self.hour = _table(24, dim) if inputs.calendar else None
        self.weekday = _table(7, dim) if inputs.calendar else None
        self.users: UserTables | None = None
        described = inputs.user_attributes
        if inputs.user_id or described:
            self.users = UserTables.of(
                config, manifest, dim, device, ids=inputs.user_id, described=described
            )
        self.hidden = nn.Parameter(torch.empty(dim)) if hides else None
        if self.hidden is not None:
            nn.init.normal_(self.hidden, std=_STD * self.scale)

    def user_rows(self, batch: Batch) -> Tensor | None:
        """[B, dim] what is added for the user of each history; None: nothing."""
        if self.users is None:
            return None
        rows: Tensor = self.users(batch.users, batch.user_vectors)
        return rows

    def forward(self, items: Tensor, batch: Batch, users: Tensor | None) -> Tensor:
        """Inputs [T, dim] from the vectors ``items`` [U, dim] of the batch's items; a hidden
        interaction is the mask vector and its user.

        Args:
            users: [B, dim] of :meth:`user_rows`.
        """
        # F.embedding instead of indexing: its gradient is a plain sum, without sorting indices.
        x = F.embedding(batch.seen, items) * self.scale
        if self.training and self.item_threshold:
            keep = hashed_bytes(batch.dropout_key, 1, Site.INPUT_ITEMS) >= self.item_threshold
            x = x * keep
        if self.rating is not None:
            x = x + self.rating(batch.rating)
        if self.event is not None:
            x = x + F.embedding(batch.event, self.event)
        if self.gap is not None:
            x = x + F.embedding(gap_class(batch), self.gap)
        if self.hour is not None and self.weekday is not None:
            # 1 January 1970 was a Thursday; only differences between weekdays matter.
            x = x + F.embedding(batch.timestamp % _DAY // _HOUR, self.hour)
            x = x + F.embedding(batch.timestamp // _DAY % 7, self.weekday)
        if batch.hidden is not None:
            assert self.hidden is not None, "only a bidirectional backbone hides interactions"
            x = torch.where(batch.hidden.unsqueeze(1), self.hidden, x)
        if users is not None:
            x = x + F.embedding(batch.owner, users) * self.scale
        inputs: Tensor = x
        return inputs


def gap_class(batch: Batch) -> Tensor:
    """[T] class of the time since the previous interaction; INTERVALS at the first interaction of
    a history."""
    gap = interval_class(batch.seconds - batch.seconds.roll(1))
    return gap.masked_fill(batch.position == 0, INTERVALS)


class RatingInput(nn.Module):
    """The rating of an interaction as a vector: linear in the rating, zero without a rating."""

    def __init__(self, dim: int, manifest: Manifest) -> None:
        super().__init__()
        low, high = manifest.rating_range or (0.0, 1.0)
        self.mean = manifest.rating_mean or 0.0
        self.half_range = max((high - low) / 2, 1e-6)
        self.project = nn.Linear(2, dim, bias=False)
        nn.init.normal_(self.project.weight, std=_STD)

    def forward(self, rating: Tensor) -> Tensor:
        """[T] → [T, dim]"""
        known = ~torch.isnan(rating)
        centred = torch.where(known, (rating - self.mean) / self.half_range, 0.0)
        projected: Tensor = self.project(torch.stack([known.to(centred.dtype), centred], dim=1))
        return projected


def _table(rows: int, dim: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, dim) * _STD)
