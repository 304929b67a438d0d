"""What attributes contribute to the vectors of items, for explanations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p5dist.data.attributes import Attributes
from p5dist.data.jagged import Floats, Ints
from p5dist.inference.vectors import Trained


@dataclass(frozen=True)
class AttributeVectors:
    """The vector of an item is the sum of its id row, of the mean row of its values of each
    attribute, and of its projected supplied vectors; these are the means."""

    attributes: Attributes
    rows: tuple[Tensor, ...]
    """By attribute [values + 1, dim]"""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the attributes."""
        return self.attributes.names

    @classmethod
    def of(cls, trained: Trained) -> AttributeVectors | None:
        """Of a checkpoint; all rows of the attributes' tables are held in memory. None if the
        model reads no attributes, or compares by cosine: the length of a vector then depends on
        all of its parts.

        Raises:
            CheckpointError: there is no complete checkpoint.
        """
        names = trained.job.model.item_attributes
        attributes = Attributes.load(trained.folder.prepare, "item", names)
        if attributes is None or trained.job.model.cosine_temperature is not None:
            return None
        model, _ = trained.model()
        wanted = model.backbone.items.bags
        assert wanted is not None
        weights = {
            f"backbone.items.bags.{name}": torch.empty(values.shape)
            for name, values in wanted.named_parameters()
        }
        trained.load(dict(weights))
        by_name = {name.split(".")[-2]: values for name, values in weights.items()}
        rows = tuple(by_name[f"item_{name}"] for name in names)
        return cls(attributes, rows)

    def __call__(self, ids: Ints) -> Tensor:
        """[n, attributes, dim] of the items ``ids`` [n]; zero for an item without value."""
        values, lengths = (torch.from_numpy(x) for x in self.attributes.of(ids))
        parts, begin = [], 0
        for rows, length in zip(self.rows, lengths.view(-1, len(ids)), strict=True):
            end = begin + int(length.sum())
            first = torch.cumsum(length, 0) - length
            parts.append(F.embedding_bag(values[begin:end], rows, first, mode="mean"))
            begin = end
        return torch.stack(parts, dim=1)

    def shares(self, users: Tensor, items: Ints, vectors: Tensor) -> Floats:
        """[B, k, attributes] what each attribute adds to the score of an item: the inner product of
        the user with the attribute's part of the vector, negative ones set to 0, divided by the sum
        over the attributes and the rest of the vector.

        Args:
            users: [B, dim]
            items: [B, k] ids
            vectors: [B, k, dim] of the items.
        """
        distinct, place = np.unique(items, return_inverse=True)
        own = self(distinct)[torch.from_numpy(place.reshape(items.shape))].double()
        user, whole = users.cpu().double(), vectors.cpu().double()
        added = torch.einsum("bd,bkad->bka", user, own)
        rest = torch.einsum("bd,bkd->bk", user, whole) - added.sum(2)
        added, rest = added.clamp(min=0), rest.clamp(min=0)
        total = added.sum(2) + rest
        share: Floats = (added / total.clamp(min=1e-300)[:, :, None]).numpy()
        return share
