"""The rating task: predict the rating that a user gives to the next item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from p5dist.config.model import Model
from p5dist.data.batch import Batch
from p5dist.data.manifest import Manifest
from p5dist.models.backbone import Encoded
from p5dist.models.dropout import HashedDropout, Site
from p5dist.models.tables import UserTables
from p5dist.tasks.module import Asked, TaskModule
from p5dist.tasks.rating import Rating


class RatingModule(TaskModule):
    """A base + biased product of user and item factors, or + an MLP, or + both. All of them are 0
    before training where the base are fitted biases (see :mod:`.biases`).

    The input of the user is the state of the encoder before the item and, with ``user_table``, the
    user's embedding row plus the pooled user attributes; biased matrix factorisation (Koren, Bell
    and Volinsky 2009) is the case without encoder and MLP.

    Args:
        config: the task section.
        name: of the task.
        manifest: mean rating and id spaces.
        dim: width of item vectors and states.
        model: the section, whose user_attributes and user_vectors describe users.
        device: of the tables.
    """

    squared_error = True

    def __init__(
        self,
        config: Rating,
        name: str,
        manifest: Manifest,
        *,
        dim: int,
        model: Model,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.name, self.mean = name, manifest.rating_mean or 0.0
        fitted = config.fits_biases(manifest)
        if fitted:
            self.mean = 0.0  # it is in the biases
        width = config.user_dim
        self.users: UserTables | None = None
        if config.user_table:
            self.users = UserTables.of(model, manifest, width, device)
        user_width = dim + (width if config.user_table else 0)
        self.product = None if config.score == "mlp" else BiasedProduct(user_width, dim, width)
        if self.product is not None and fitted:
            self.product.begin_at_zero()
        self.mlp = None if config.score == "dot" else Mlp(user_width + dim, 2 * width)
        self.state_dropout = HashedDropout(config.dropout, site=Site.RATING_STATE)
        self.item_dropout = HashedDropout(config.dropout, site=Site.RATING_ITEM)
        self.user_dropout = HashedDropout(config.dropout, site=Site.RATING_USER)

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1] the squared error"""
        made = batch.fields[self.name]
        now, target = made["at"], made["target"]
        key = batch.dropout_key[now]
        users = self.rows_of_users(batch)
        predicted = self.ratings(
            self.state_dropout(encoded.states[now], key),
            self.item_dropout(encoded.items[batch.token[target]], key),
            None if users is None else self.user_dropout(users[batch.owner[now]], key),
        )
        base = made.get("base")
        wanted = batch.rating[target] if base is None else batch.rating[target] - base
        error = (predicted - wanted).square()
        weight = made.get("weight")
        return (error.sum() if weight is None else error @ weight).reshape(1)

    def rows_of_users(self, batch: Batch) -> Tensor | None:
        """[B, user_dim]; None without a user table."""
        return None if self.users is None else self.users(batch.users, batch.user_vectors)

    def predict(self, asked: Asked) -> Tensor:
        """[E] ratings, not clipped; with fitted biases, what is added to them"""
        users = self.rows_of_users(asked.batch)
        return self.ratings(
            asked.last(asked.states), asked.items, None if users is None else users[asked.history]
        )

    def ratings(self, states: Tensor, items: Tensor, users: Tensor | None) -> Tensor:
        """Ratings, or what is added to the fitted biases, [M] of items [M, dim] by users with
        states [M, dim] and vectors [M, user_dim] (None without a user table)."""
        user = states if users is None else torch.cat([states, users], dim=1)
        predicted = torch.full((len(states),), self.mean, device=states.device)
        if self.product is not None:
            predicted = predicted + self.product(user, items)
        if self.mlp is not None:
            predicted = predicted + self.mlp(torch.cat([user, items], dim=1))
        return predicted


class BiasedProduct(nn.Module):
    """Bias of the user + bias of the item + the inner product of their factors; biases and factors
    are linear in the vectors.

    Args:
        user_width, item_width: of the vectors.
        factors: width of the product.
    """

    def __init__(self, user_width: int, item_width: int, factors: int) -> None:
        super().__init__()
        self.user_bias = nn.Linear(user_width, 1)
        self.item_bias = nn.Linear(item_width, 1, bias=False)
        self.user_factor = nn.Linear(user_width, factors)
        self.item_factor = nn.Linear(item_width, factors, bias=False)

    def begin_at_zero(self) -> None:
        """Set weights so that every score is 0 and all weights have a gradient but for the user's
        factors, which get one after the first step."""
        for weight in (self.user_bias.weight, self.user_bias.bias, self.item_bias.weight,
                       self.item_factor.weight):  # fmt: skip
            nn.init.zeros_(weight)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """[M, user_width], [M, item_width] → [M]"""
        product = (self.user_factor(user) * self.item_factor(item)).sum(1)
        score: Tensor = (self.user_bias(user) + self.item_bias(item)).squeeze(1) + product
        return score


class Mlp(nn.Module):
    """A network with one hidden layer, whose output starts at zero."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[M, width] → [M]"""
        scores: Tensor = self.out(torch.relu(self.hidden(x))).squeeze(1)
        return scores
