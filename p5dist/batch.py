"""The batch: what the feed makes and the models take.

Nothing is padded to the longest history. Interactions of all histories lie one after the other,
histories sorted by falling length, so that attention can work on buckets of nearly equal length.
The embedding rows that a batch needs are listed once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

ITEM_FEATURE = "item"
USER_FEATURE = "user"


@dataclass(frozen=True)
class Bucket:
    """Histories of nearly equal length: what attention pads to one rectangle."""

    tokens: slice
    """Their interactions."""
    histories: int
    length: int
    """Interactions of the longest."""


@dataclass(frozen=True)
class Batch:
    """B histories with T interactions, U distinct items and C candidates of one worker."""

    items: KeyedJaggedTensor
    """Key ``item``, one bag: the U distinct item ids of history and candidates."""
    item_attributes: KeyedJaggedTensor | None
    """One key an attribute, U bags."""
    users: KeyedJaggedTensor
    """Key ``user`` and one an attribute, B + 1 bags; the last is empty, so that a worker without
    a history takes part in the exchange."""
    token: Tensor
    """[T] index into ``items``"""
    candidates: Tensor
    """[C] index into ``items``; the same items on every worker"""
    candidate_log_q: Tensor | None
    """[C] log of the expected draws of each candidate; None: every item once"""
    owner: Tensor
    """[T] index of the history"""
    position: Tensor
    """[T] index in its history"""
    has_next: Tensor
    """[T] bool: the history goes on; the next interaction is then at t + 1"""
    timestamp: Tensor
    """[T] int64 seconds"""
    event: Tensor
    """[T] int64 event type, 0 where the log has none"""
    rating: Tensor
    """[T] float, NaN where there is none"""
    dropout_key: Tensor
    """[T] int64: hash of (seed, step, row, position)"""
    slot: Tensor
    """[T] place of each interaction in its bucket's rectangle, flattened"""
    buckets: tuple[Bucket, ...]
    histories: int
    """B"""
    rows: npt.NDArray[np.int64]
    """[B] row numbers, for messages"""

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        if device.type == "cpu":
            return self
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), (Tensor, KeyedJaggedTensor))
        }
        return Batch(**{f.name: getattr(self, f.name) for f in fields(self)} | moved)
