"""The pieces of a state: the part of every tensor that one worker holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

AVERAGE = "average."
"""Prefix of the names of averaged weights in a checkpoint."""

State = dict[str, Any]
"""Name → tensor (the same on every worker), ShardedTensor (each worker holds its shards), or a list
of this worker's pieces."""


@dataclass(frozen=True)
class Piece:
    """A box of a tensor."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    offsets: tuple[int, ...]
    """First index of the box, by dimension."""
    values: Tensor
    """Values of the box."""


def pieces_of(state: State, *, replicated: bool) -> list[Piece]:
    """This worker's pieces of ``state``.

    Args:
        replicated: include the tensors that are the same on every worker; one worker saves them.
    """
    return [
        piece
        for name, value in state.items()
        for piece in _pieces(name, value, replicated)
        if piece.values.numel()
    ]


def _pieces(name: str, value: Any, replicated: bool) -> Iterator[Piece]:
    if hasattr(value, "local_shards"):
        for shard in value.local_shards():
            offsets = tuple(shard.metadata.shard_offsets)
            yield Piece(name, tuple(value.size()), offsets, shard.tensor.detach())
    elif isinstance(value, list):
        yield from value
    elif replicated:
        values = value.detach()
        values = values.view(1) if values.dim() == 0 else values  # a view, to load in place
        yield Piece(name, tuple(values.shape), (0,) * values.dim(), values)


def overlap(
    one: tuple[tuple[int, ...], tuple[int, ...]], other: tuple[tuple[int, ...], tuple[int, ...]]
) -> list[tuple[int, int]] | None:
    """The intersection of two boxes (offsets, sizes) of a tensor: (begin, end) by dimension; None
    if they do not intersect."""
    found = []
    for o1, n1, o2, n2 in zip(*one, *other, strict=True):
        begin, end = max(o1, o2), min(o1 + n1, o2 + n2)
        if begin >= end:
            return None
        found.append((begin, end))
    return found


def as_bytes(values: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on CPU, not copied."""
    flat = values.reshape(-1).view(torch.uint8) if values.numel() else values.new_empty(0).byte()
    return memoryview(flat.numpy())  # type: ignore[arg-type]
