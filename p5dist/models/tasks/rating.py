"""The rating task: predict the rating that a user gives to the next item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from p5dist.batch import Batch
from p5dist.config.heads import RatingTask
from p5dist.manifest import Manifest
from p5dist.models.dropout import HashedDropout
from p5dist.models.head import Head
from p5dist.models.recommender import Encoded, Recommender
from p5dist.models.tables import UserTables


class Rating(Head):
    """Mean + bias of the item + bias of the user + a product of both + an MLP.

    The user is the state of the encoder before the item and, with ``user_table``, a row of the
    user's own with the pooled user attributes; biased matrix factorisation (Koren, Bell and
    Volinsky 2009) is the case without encoder and MLP.

    Args:
        config: the task section.
        manifest: mean rating and id spaces.
        dim: width of item vectors and states.
        user_attributes: names of the user attributes.
        device: of the tables.
    """

    def __init__(
        self,
        config: RatingTask,
        manifest: Manifest,
        *,
        dim: int,
        user_attributes: tuple[str, ...],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.mean = manifest.rating_mean or 0.0
        width = config.user_dim
        attributes = {name: manifest.user_attributes[name] for name in user_attributes}
        self.users = (
            UserTables(manifest.users, attributes, width, device) if config.user_table else None
        )
        user_width = dim + (width if config.user_table else 0)
        self.user_bias = nn.Linear(user_width, 1)
        self.item_bias = nn.Linear(dim, 1, bias=False)
        self.user_factor = nn.Linear(user_width, width)
        self.item_factor = nn.Linear(dim, width, bias=False)
        self.hidden = nn.Linear(user_width + dim, 2 * width)
        self.out = nn.Linear(2 * width, 1, bias=False)
        nn.init.zeros_(self.out.weight)
        self.state_dropout = HashedDropout(config.dropout, site=1001)
        self.item_dropout = HashedDropout(config.dropout, site=1002)
        self.user_dropout = HashedDropout(config.dropout, site=1003)

    def counts(self, batch: Batch) -> list[float]:
        """Rated positions."""
        return [float(len(self._rated(batch)))]

    def forward(self, backbone: Recommender, batch: Batch) -> Tensor:
        """[1] the squared error"""
        encoded: Encoded = backbone(batch)
        now = self._rated(batch)
        key = batch.dropout_key[now]
        users = self.user_vectors(batch)
        predicted = self.predict(
            self.state_dropout(encoded.states[now], key),
            self.item_dropout(encoded.items[batch.token[now + 1]], key),
            None if users is None else self.user_dropout(users[batch.owner[now]], key),
        )
        return (predicted - batch.rating[now + 1]).square().sum().reshape(1)

    def user_vectors(self, batch: Batch) -> Tensor | None:
        """[B, user_dim]; None without a user table."""
        return None if self.users is None else self.users(batch.users)

    def predict(self, states: Tensor, items: Tensor, users: Tensor | None) -> Tensor:
        """Ratings [M] of items [M, dim] by users with states [M, dim] and vectors [M, user_dim]
        (None without a user table)."""
        user = states if users is None else torch.cat([states, users], dim=1)
        bias = self.user_bias(user) + self.item_bias(items)
        product = (self.user_factor(user) * self.item_factor(items)).sum(1, keepdim=True)
        hidden = torch.relu(self.hidden(torch.cat([user, items], dim=1)))
        predicted: Tensor = self.mean + (bias + product + self.out(hidden)).squeeze(1)
        return predicted

    def _rated(self, batch: Batch) -> Tensor:
        """Positions [M] whose next interaction has a rating."""
        after = torch.roll(batch.rating, -1)
        return torch.nonzero(batch.has_next & ~torch.isnan(after)).squeeze(1)
