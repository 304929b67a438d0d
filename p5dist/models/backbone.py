"""The backbone: tables and encoder, shared by pre-training and all tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from p5dist.config.model import Model
from p5dist.data.batch import Batch
from p5dist.data.manifest import Manifest
from p5dist.models.dropout import Site, hashed_bytes, threshold
from p5dist.models.encoders.encoder import Encoder
from p5dist.models.inputs import Inputs
from p5dist.models.tables import ItemTables, sizes


@dataclass(frozen=True)
class Encoded:
    """The outputs of the backbone, which objectives and tasks compute their losses from."""

    states: Tensor
    """[T, dim] one per interaction: its history up to it (bidirectional: the whole history)"""
    items: Tensor
    """[U, dim] vectors of the distinct items of the batch; likely next items have a large inner
    product with the state"""
    views: tuple[Tensor, ...] = ()
    """[B, dim] of each of the batch's views the last state of every history, in the order of the
    histories of the batch; zero for an empty one"""


class Backbone(nn.Module):
    """Item tables and an encoder over histories.

    Args:
        config: the model section.
        manifest: sizes of the id spaces, and the range of ratings.
        max_length: longest history.
        device: of the tables (``meta`` before sharding); the dense part is on CPU.
        bidirectional: the state of an interaction also sees the later interactions of its history,
            as an objective that hides interactions needs; such a backbone has a mask vector, the
            input of every hidden interaction.
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
        self.items = ItemTables(
            manifest.items,
            sizes(manifest.item_attributes, config.item_attributes),
            config.dim,
            device,
            ids=config.item_ids,
            vectors=sizes(manifest.item_vectors, config.item_vectors),
            scale=config.init_scale,
        )
        self.inputs = Inputs(config, manifest, device=device, hides=bidirectional)
        assert isinstance(config.encoder, Encoder)
        self.encoder = config.encoder.build(
            dim=config.dim, max_length=max_length, causal=not bidirectional
        )
        self.bidirectional = bidirectional
        self.id_threshold = threshold(config.inputs.id_dropout)
        self.temperature = config.cosine_temperature

    def forward(self, batch: Batch) -> Encoded:
        """States of all interactions and vectors of all items of ``batch``."""
        items, users = self._rows(batch), self.inputs.user_rows(batch)
        states = self.encoder(self.inputs(items, batch, users), batch).float()
        views = tuple(self._last(items, users, view) for view in batch.views)
        t = self.temperature
        return Encoded(compared(states, t), compared(items, t), views)

    def last_states(self, batch: Batch) -> Tensor:
        """[E, dim] the states at ``batch.ends``, as in :attr:`Encoded.states`."""
        last = self._ends(self._rows(batch), self.inputs.user_rows(batch), batch)
        return compared(last, self.temperature)

    def _ends(self, items: Tensor, users: Tensor | None, batch: Batch) -> Tensor:
        """[E, dim] the states at ``batch.ends``."""
        x = self.inputs(items, batch, users)
        states_at = getattr(self.encoder, "states_at", None)
        if states_at is None:
            states: Tensor = self.encoder(x, batch)[batch.ends]
        else:
            states = states_at(x, batch, batch.ends)
        return states.float()

    def _last(self, items: Tensor, users: Tensor | None, view: Batch) -> Tensor:
        """[B, dim] see :attr:`Encoded.views`"""
        assert view.of is not None
        own = None if users is None else users[view.of]
        last = self._ends(items, own, view)
        found = last.new_zeros(view.histories, last.shape[1])
        placed: Tensor = found.index_copy(0, view.of[: len(last)], last)
        return placed

    def item_vectors(self, batch: Batch) -> Tensor:
        """[U, dim] :attr:`Encoded.items`, without encoding the histories."""
        return compared(self._rows(batch), self.temperature)

    def _rows(self, batch: Batch) -> Tensor:
        dropped = None
        if self.training and self.id_threshold:
            dropped = hashed_bytes(batch.item_key, 1, Site.ITEM_IDS) < self.id_threshold
        rows: Tensor = self.items(batch.items, batch.item_attributes, batch.item_vectors, dropped)
        return rows


def compared(vectors: Tensor, temperature: float | None) -> Tensor:
    """``vectors``, scaled if a temperature is given: products are cosine / temperature."""
    if temperature is None:
        return vectors
    scaled: Tensor = F.normalize(vectors, dim=1, eps=1e-6) * temperature**-0.5
    return scaled
