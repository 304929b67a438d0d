"""The click task: whether the next interaction is a yes (click, conversion, like) or a no."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.config.model import Model
from p5dist.data.batch import Batch, in_seconds
from p5dist.data.manifest import Manifest
from p5dist.models.backbone import Encoded
from p5dist.models.dropout import HashedDropout, Site
from p5dist.models.tables import UserTables
from p5dist.tasks.click import Click, Dcn
from p5dist.tasks.click.interactions import CrossNetwork, DotInteraction, mlp
from p5dist.tasks.module import Asked, TaskModule

_DENSE = 5
_DAY = 86_400


class ClickModule(TaskModule):
    """Log loss of a network over feature vectors: numbers of the history and the time, the item
    with its attributes, the user row with user attributes, the state of the encoder before the
    item.

    Args:
        config: the task section.
        name: of the task.
        manifest: events, mean rating and id spaces.
        dim: width of item vectors and states.
        model: the section, whose user_attributes and user_vectors describe users.
        device: of the tables.
    """

    def __init__(
        self,
        config: Click,
        name: str,
        manifest: Manifest,
        *,
        dim: int,
        model: Model,
        device: torch.device,
    ) -> None:
        super().__init__()
        width = config.dim
        self.name = name
        self.facts = HistoryFacts(manifest.rating_mean or 0.0)
        self.reads_states = config.state
        self.users: UserTables | None = None
        if config.user_table:
            self.users = UserTables.of(model, manifest, width, device)
        self.dense = mlp(_DENSE, 2 * width, width)
        self.item = nn.Linear(dim, width)
        self.state = nn.Linear(dim, width) if config.state else None
        features = 2 + config.user_table + config.state
        how = config.interaction
        self.interaction = (
            CrossNetwork(features, width, config.hidden, layers=how.layers, rank=how.rank)
            if isinstance(how, Dcn)
            else DotInteraction(features, width, config.hidden)
        )
        self.dropout = HashedDropout(config.dropout, site=Site.CLICK_FEATURES)

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1] the log loss"""
        made = batch.fields[self.name]
        now, label, weight = made["at"], made["label"], made.get("weight")
        users, time = self.rows_of_users(batch), batch.seconds
        logits = self.logits(
            self.facts(batch)[now],
            time[now],
            time[now + 1],
            encoded.items[made["item"]],
            None if self.state is None else encoded.states[now],
            None if users is None else users[batch.owner[now]],
            batch.dropout_key[now],
        )
        loss = F.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
        return loss.reshape(1)

    def rows_of_users(self, batch: Batch) -> Tensor | None:
        """[B, dim of the task]; None without a user table."""
        return None if self.users is None else self.users(batch.users, batch.user_vectors)

    def predict(self, asked: Asked) -> Tensor:
        """[E] probabilities of a yes, float64"""
        users = self.rows_of_users(asked.batch)
        before, time = asked.last(asked.batch.seconds), in_seconds(asked.timestamp)
        logits = self.logits(
            asked.last(self.facts(asked.batch)),
            torch.where(asked.known, before, time),
            time,
            asked.items,
            asked.last(asked.states),
            None if users is None else users[asked.history],
        )
        return torch.sigmoid(logits.double())

    def logits(
        self,
        facts: Tensor,
        before: Tensor,
        time: Tensor,
        items: Tensor,
        states: Tensor | None,
        users: Tensor | None,
        key: Tensor | None = None,
    ) -> Tensor:
        """Logits of M examples.

        Args:
            facts: [M, 2] see :class:`HistoryFacts`.
            before, time: [M] seconds (float64), of the last interaction and of the example.
            items, states: [M, dim]
            users: [M, dim of the task]
            key: [M] dropout key; None outside training.
        """
        vectors = [self.dense(dense_features(facts, before, time)), self.item(items)]
        if self.state is not None:
            assert states is not None
            vectors.append(self.state(states))
        if users is not None:
            vectors.append(users)
        stacked = torch.stack(vectors, dim=1)
        if key is not None:
            stacked = self.dropout(stacked.flatten(1), key).view_as(stacked)
        logits: Tensor = self.interaction(stacked).float()
        return logits


class HistoryFacts(nn.Module):
    """Two numbers of the history up to each interaction: log(1 + number of interactions), and its
    mean rating minus the mean of all ratings (0 without a rating).

    Args:
        mean: mean rating of all training interactions.
    """

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, batch: Batch) -> Tensor:
        """[T, 2]"""
        known = ~torch.isnan(batch.rating)
        centred = torch.where(known, batch.rating.double() - self.mean, 0.0)
        # Cumulative sums minus the sums before the history; in double, as they run over the batch.
        sums = torch.stack([centred, known.double()]).cumsum(1)
        before = torch.cat([sums.new_zeros(2, 1), sums], dim=1)
        first = torch.arange(len(known), device=known.device) - batch.position
        total, number = sums - before[:, first]
        length = torch.log1p(batch.position.double() + 1)
        return torch.stack([length, total / number.clamp(min=1)], dim=1).float()


def dense_features(facts: Tensor, before: Tensor, time: Tensor) -> Tensor:
    """[M, 5]: facts of the history [M, 2], log(1 + seconds since its last interaction) / 10, and
    sine and cosine of the time of day."""
    gap = torch.log1p((time - before).clamp(min=0)).float() / 10
    angle = (time % _DAY).float() * (2 * math.pi / _DAY)
    return torch.cat([facts, torch.stack([gap, angle.sin(), angle.cos()], dim=1)], dim=1)
