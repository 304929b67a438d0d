"""Embedding tables (TorchRec) of items and users, with what describes both: values of attributes,
which have rows, and supplied vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from p5dist.config.model import Model
from p5dist.data.batch import ITEM_FEATURE, USER_FEATURE
from p5dist.data.manifest import Manifest
from p5dist.data.matrix import Matrix


class Projected(nn.ModuleDict):
    """Supplied vectors, each times a trained matrix, added up.

    Args:
        widths: by name of the vector.
        dim: width of the result.
        scale: standard deviation of the elements that a vector of length 1 gives at the start.
    """

    def __init__(self, widths: dict[str, int], dim: int, scale: float) -> None:
        layers = {name: nn.Linear(width, dim, bias=False) for name, width in widths.items()}
        super().__init__(layers)
        self.widths = widths
        for layer in layers.values():
            nn.init.normal_(layer.weight, std=scale)

    def forward(self, vectors: Tensor) -> Tensor:
        """[n, sum of widths], one vector after the other → [n, dim]"""
        parts = torch.split(vectors, list(self.widths.values()), dim=1)
        return _added([layer(part) for layer, part in zip(self.values(), parts, strict=True)])


class ItemTables(nn.Module):
    """Item vectors: the id row plus the pooled attributes and the projected vectors, so that an
    unseen item has a vector.

    An item without a trained row is looked up as id 0, whose row is zero and stays so.

    Args:
        items: largest item id; row 0 is padding.
        attributes: number of values of each attribute.
        dim: width of the vectors.
        device: of the tables; ``meta`` if DistributedModelParallel makes the shards.
        ids: items have id rows.
        vectors: width of each supplied vector.
        scale: as of :class:`Projected`.
    """

    def __init__(
        self,
        items: int,
        attributes: dict[str, int],
        dim: int,
        device: torch.device,
        *,
        ids: bool = True,
        vectors: dict[str, int] | None = None,
        scale: float = 0.02,
    ) -> None:
        super().__init__()
        self.rows, self.attributes, self.dim = items + 1, attributes, dim
        self.has_ids, self.widths = ids, vectors or {}
        self.ids = _rows(items + 1, dim, device) if ids else None
        self.bags = _bags(ITEM_FEATURE, attributes, dim, device) if attributes else None
        self.projected = Projected(self.widths, dim, scale) if self.widths else None
        self.frozen = False  # no gradient reaches the tables

    own_rows = f"ids.embeddings.{ITEM_FEATURE}.weight"
    """Name of the parameter with a row for each id."""

    def with_rows(self, rows: int) -> ItemTables:
        """Other tables with ``rows`` id rows, on CPU."""
        cpu = torch.device("cpu")
        return ItemTables(
            rows - 1, self.attributes, self.dim, cpu, ids=self.has_ids, vectors=self.widths
        )

    def forward(
        self,
        items: KeyedJaggedTensor,
        attributes: KeyedJaggedTensor | None,
        supplied: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Vectors [U, dim] of the U ids in ``items``.

        Args:
            supplied: [U, sum of widths] the supplied vectors.
            dropped: [U, 1] bool: items without their id row, so only what describes them
                contributes.
        """
        described = self.bags is not None or self.projected is not None
        parts = []
        if self.ids is not None:
            rows = self.ids(items)[ITEM_FEATURE].values()
            if described:
                without = (items.values() == 0).unsqueeze(1)
                without = without if dropped is None else without | dropped
                rows = rows.masked_fill(without, 0.0)
            parts.append(rows)
        if self.bags is not None:
            pooled = self.bags(attributes).values()
            parts.append(pooled.view(len(pooled), -1, self.dim).sum(1))
        if self.projected is not None:
            assert supplied is not None
            parts.append(self.projected(supplied))
        vectors = _added(parts)
        return vectors.detach() if self.frozen else vectors


class UserTables(nn.Module):
    """User vectors: the user's id row plus the pooled attributes and the projected vectors.

    Args:
        users: largest user id.
        attributes: number of values of each attribute.
        dim, device, vectors, scale: as for :class:`ItemTables`.
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
        vectors: dict[str, int] | None = None,
        scale: float = 0.02,
    ) -> None:
        super().__init__()
        self.rows, self.attributes, self.dim = users + 1, attributes, dim
        self.has_ids, self.widths = ids, vectors or {}
        own = {"": users} if ids else {}
        named = own | attributes
        self.bags = _bags(USER_FEATURE, named, dim, device) if named else None
        self.projected = Projected(self.widths, dim, scale) if self.widths else None
        self.frozen = False  # no gradient reaches the tables

    @classmethod
    def of(
        cls,
        model: Model,
        manifest: Manifest,
        dim: int,
        device: torch.device,
        *,
        ids: bool = True,
        described: bool = True,
    ) -> UserTables:
        """The tables of a model of this section; without ``described`` its attributes and vectors
        are left out."""
        return cls(
            manifest.users,
            sizes(manifest.user_attributes, model.user_attributes if described else ()),
            dim,
            device,
            ids=ids,
            vectors=sizes(manifest.user_vectors, model.user_vectors if described else ()),
            scale=model.init_scale,
        )

    own_rows = f"bags.embedding_bags.{USER_FEATURE}.weight"
    """As of :class:`ItemTables`; not there without ids."""

    def with_rows(self, rows: int) -> UserTables:
        """As of :class:`ItemTables`."""
        cpu = torch.device("cpu")
        return UserTables(
            rows - 1, self.attributes, self.dim, cpu, ids=self.has_ids, vectors=self.widths
        )

    def forward(self, users: KeyedJaggedTensor, supplied: Tensor | None = None) -> Tensor:
        """Vectors [B, dim] of users; the last bag of ``users``, which is empty, is dropped.

        Args:
            supplied: [B, sum of widths] the supplied vectors.
        """
        parts = []
        if self.bags is not None:
            pooled = self.bags(users).values()
            parts.append(pooled.view(len(pooled), -1, self.dim).sum(1)[:-1])
        if self.projected is not None:
            assert supplied is not None
            parts.append(self.projected(supplied))
        vectors = _added(parts)
        return vectors.detach() if self.frozen else vectors


def sizes(all_sizes: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """The sizes of the attributes or vectors that a model reads."""
    return {name: all_sizes[name] for name in names}


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
        supplied: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """As :meth:`ItemTables.forward`; what describes an item is in its vector."""
        return self.look_up(items.values())


class StoredUsers(_Stored):
    """Stands in the place of :class:`UserTables` after training."""

    def forward(self, users: KeyedJaggedTensor, supplied: Tensor | None = None) -> Tensor:
        """As :meth:`UserTables.forward`; what describes a user is in the vector."""
        return self.look_up(users.values())


def _added(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _rows(rows: int, dim: int, device: torch.device) -> EmbeddingCollection:
    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=ITEM_FEATURE,
                embedding_dim=dim,
                num_embeddings=rows,
                feature_names=[ITEM_FEATURE],
            )
        ],
        device=device,
    )


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
