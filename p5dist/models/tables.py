"""Embedding tables (TorchRec) of items and users, with the attributes of both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from p5dist.data.batch import ITEM_FEATURE, USER_FEATURE
from p5dist.data.matrix import Matrix


class ItemTables(nn.Module):
    """Item vectors: the id row plus the pooled attributes, so that an unseen item has a vector.

    An item without a trained row is looked up as id 0, whose row is zero and stays so.

    Args:
        items: largest item id; row 0 is padding.
        attributes: number of values of each attribute.
        dim: width of the vectors.
        device: of the weights; ``meta`` if DistributedModelParallel makes the shards.
    """

    def __init__(
        self, items: int, attributes: dict[str, int], dim: int, device: torch.device
    ) -> None:
        super().__init__()
        self.rows, self.attributes, self.dim = items + 1, attributes, dim
        self.ids = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=ITEM_FEATURE,
                    embedding_dim=dim,
                    num_embeddings=items + 1,
                    feature_names=[ITEM_FEATURE],
                )
            ],
            device=device,
        )
        self.bags = _bags(ITEM_FEATURE, attributes, dim, device) if attributes else None
        self.frozen = False  # no gradient reaches the tables

    own_rows = f"ids.embeddings.{ITEM_FEATURE}.weight"
    """Name of the parameter with a row for each id."""

    def with_rows(self, rows: int) -> ItemTables:
        """Other tables with ``rows`` id rows, on CPU."""
        return ItemTables(rows - 1, self.attributes, self.dim, torch.device("cpu"))

    def forward(
        self,
        items: KeyedJaggedTensor,
        attributes: KeyedJaggedTensor | None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Vectors [U, dim] of the U ids in ``items``.

        Args:
            dropped: [U, 1] bool: items without their id row, so only their attributes contribute.
        """
        vectors: Tensor = self.ids(items)[ITEM_FEATURE].values()
        if self.bags is not None:
            without = (items.values() == 0).unsqueeze(1)
            without = without if dropped is None else without | dropped
            vectors = vectors.masked_fill(without, 0.0)
            pooled = self.bags(attributes).values()
            vectors = vectors + pooled.view(len(vectors), -1, vectors.shape[1]).sum(1)
        return vectors.detach() if self.frozen else vectors


class UserTables(nn.Module):
    """User vectors: the user's id row plus the pooled attributes.

    Args:
        users: largest user id.
        attributes: number of values of each attribute.
        dim, device: as for :class:`ItemTables`.
        ids: users have id rows.
    """

    def __init__(
        self,
        users: int,
        attributes: dict[str, int],
        dim: int,
        device: torch.device,
        *,
        ids: bool = True,
    ) -> None:
        super().__init__()
        self.rows, self.attributes, self.dim = users + 1, attributes, dim
        self.has_ids = ids
        own = {"": users} if ids else {}
        self.bags = _bags(USER_FEATURE, own | attributes, dim, device)
        self.frozen = False  # no gradient reaches the tables

    own_rows = f"bags.embedding_bags.{USER_FEATURE}.weight"
    """As of :class:`ItemTables`; not there without ids."""

    def with_rows(self, rows: int) -> UserTables:
        """As of :class:`ItemTables`."""
        cpu = torch.device("cpu")
        return UserTables(rows - 1, self.attributes, self.dim, cpu, ids=self.has_ids)

    def forward(self, users: KeyedJaggedTensor) -> Tensor:
        """Vectors [B, dim] of users; the last bag of ``users``, which is empty, is dropped."""
        pooled = self.bags(users).values()
        vectors: Tensor = pooled.view(len(pooled), -1, self.dim).sum(1)
        return vectors[:-1].detach() if self.frozen else vectors[:-1]


class _Stored(nn.Module):
    """Vectors that were computed once are read from a file.

    Args:
        matrix: row i is the vector of id i.
    """

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix = matrix
        self._held: Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes of all vectors."""
        return 4 * self.matrix.rows * self.matrix.width

    def hold(self, device: torch.device) -> None:
        """Keep all vectors in memory of ``device``."""
        held = torch.empty(self.matrix.rows, self.matrix.width, device=device)
        for block in range(self.matrix.blocks):
            first, end = self.matrix.range_of(block)
            held[first:end] = torch.from_numpy(np.array(self.matrix.block(block)))
        self._held = held

    def look_up(self, ids: Tensor) -> Tensor:
        """[n, dim]"""
        if self._held is not None:
            return self._held.index_select(0, ids)
        rows = self.matrix.take(ids.cpu().numpy().astype(np.int64, copy=False))
        return torch.from_numpy(rows).to(ids.device)


class StoredItems(_Stored):
    """Stands in the place of :class:`ItemTables` after training."""

    def forward(
        self,
        items: KeyedJaggedTensor,
        attributes: KeyedJaggedTensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """As :meth:`ItemTables.forward`; the attributes are in the vectors."""
        return self.look_up(items.values())


class StoredUsers(_Stored):
    """Stands in the place of :class:`UserTables` after training."""

    def forward(self, users: KeyedJaggedTensor) -> Tensor:
        """As :meth:`UserTables.forward`; the attributes are in the vectors."""
        return self.look_up(users.values())


def _bags(
    side: str, attributes: dict[str, int], dim: int, device: torch.device
) -> EmbeddingBagCollection:
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"{side}_{name}" if name else side,
                embedding_dim=dim,
                num_embeddings=values + 1,
                feature_names=[name or side],
                pooling=PoolingType.MEAN,
            )
            for name, values in attributes.items()
        ],
        device=device,
    )
