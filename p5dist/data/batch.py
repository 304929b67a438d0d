"""The batch: the feed makes it, the models take it.

Nothing is padded to the longest history. Interactions of all histories lie one after the other,
histories sorted by falling length, so that attention can work on buckets of nearly equal length.
The embedding rows that a batch needs are listed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from p5dist.data.columns import SECOND

ITEM_FEATURE = "item"
USER_FEATURE = "user"


@dataclass(frozen=True)
class Bucket:
    """Histories of nearly equal length, which attention pads to one rectangle."""

    tokens: slice
    """Their interactions."""
    histories: int
    length: int
    """Interactions of the longest."""
    area: slice
    """Slots of its rectangle (histories · length) among the slots of all rectangles."""


@dataclass(frozen=True)
class Batch:
    """B histories with T interactions, U distinct items and C candidates of one worker."""

    items: KeyedJaggedTensor
    """Key ``item``, one bag: the U distinct item ids of history and candidates."""
    item_attributes: KeyedJaggedTensor | None
    """One key an attribute, U bags"""
    users: KeyedJaggedTensor
    """Key ``user`` and one an attribute, B + 1 bags; the last is empty, so that a worker without
    a history takes part in the exchange."""
    token: Tensor
    """[T] index into ``items``"""
    seen: Tensor
    """[T] index into ``items`` of the item that the encoder sees; as ``token`` unless a masked
    objective shows another item"""
    candidates: Tensor
    """[C] index into ``items``; the same items on every worker"""
    candidates_are_items: bool
    """The candidates are the items of the batch in their order."""
    candidate_log_q: Tensor | None
    """[C] log of the expected draws of each candidate; None: every item once"""
    owner: Tensor
    """[T] index of the history"""
    position: Tensor
    """[T] index in its history"""
    offsets: Tensor
    """[B + 1] the interactions of history b are ``offsets[b]`` … ``offsets[b + 1] - 1``"""
    ends: Tensor
    """[E] the last interaction of every history that is not empty; empty histories come last"""
    timestamp: Tensor
    """[T] int64 microseconds"""
    event: Tensor
    """[T] int64 event type, 0 where the log has none"""
    rating: Tensor
    """[T] float, NaN where there is none"""
    dropout_key: Tensor
    """[T] int64: hash of (seed, step, row, position)"""
    item_key: Tensor
    """[U] int64: hash of (seed, step, item)"""
    slot: Tensor
    """[T] place of each interaction in the rectangles of all buckets, flattened"""
    buckets: tuple[Bucket, ...]
    histories: int
    """B"""
    rows: npt.NDArray[np.int64]
    """[B] row numbers, for messages"""
    item_vectors: Tensor | None = None
    """[U, sum of widths] the supplied vectors of the items"""
    user_vectors: Tensor | None = None
    """[B, sum of widths] the supplied vectors of the users"""
    hidden: Tensor | None = None
    """[T] bool: the encoder sees the position only; None: nothing is hidden"""
    views: tuple[Batch, ...] = ()
    """Further histories of the same users, whose indices are into the items of this batch."""
    of: Tensor | None = None
    """[B] of a view: the index of each history in the batch that has the view"""
    valid: Tensor | None = None
    """[B, L] bool: of a batch that is one rectangle, the interactions that are no padding; None:
    the batch has no padding (see :mod:`p5dist.inference.export.encoder`)"""
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name of an objective or task (empty where there is one only) its extra fields: tensors,
    and NumPy arrays that stay in memory of the host."""

    @property
    def seconds(self) -> Tensor:
        """[T] float64: ``timestamp`` in seconds"""
        return in_seconds(self.timestamp)

    @property
    def area(self) -> int:
        """Slots in the rectangles of all buckets."""
        return self.buckets[-1].area.stop if self.buckets else 0

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; copies from pinned memory run beside the caller."""
        if device.type == "cpu":
            return self
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def each(self, change: Callable[[Any], Any]) -> Batch:
        """The batch with every tensor and KeyedJaggedTensor changed."""
        changed: dict[str, Any] = {
            f.name: change(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), (Tensor, KeyedJaggedTensor))
        }
        changed["views"] = tuple(view.each(change) for view in self.views)
        changed["fields"] = {
            name: {
                key: change(value) if isinstance(value, Tensor) else value
                for key, value in made.items()
            }
            for name, made in self.fields.items()
        }
        return replace(self, **changed)


def in_seconds(timestamp: Tensor) -> Tensor:
    """int64 microseconds → float64 seconds"""
    return timestamp.double() / SECOND
