"""Exact ranking by inner products of user and item vectors, whatever the size of the catalogue.

Users are held in tiles of at most :data:`TILE` rows; item vectors stream by in blocks. A block of
scores is computed into one buffer, looked at, and forgotten, so that memory grows neither with the
catalogue nor with the users. With one block of items a single pass is enough. With several, a first
pass finds what depends on the whole catalogue (the scores of the targets, the normaliser of the
softmax), and a second pass counts the items before each target and merges the lists: the counts of
blocks add up, and of equal scores the lower id comes first.

Tiles and blocks are always cut at the same places, so that the result does not depend on who
computes them: the last bits of a product depend on its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from p5dist.data.catalogue import Catalogue
from p5dist.data.matrix import BLOCK
from p5dist.errors import TrainingError
from p5dist.ranking.tiles import Query, Room, Tile
from p5dist.ranking.topk import Lists, Ranked, placed

TILE, STRIP = {"cpu": 256}, {"cpu": 8192}
"""Users, and items if they are several blocks, whose scores are held at once, by type of device: on
CPU 8 MB, which caches hold."""
_TILE_ON_GPU, _STRIP_ON_GPU = 4096, 32_768
"""512 MB, which keep a GPU busy."""


class ItemBlocks(Protocol):
    """The vectors of all ids of a catalogue, in blocks."""

    catalogue: Catalogue

    def __len__(self) -> int:
        """Number of blocks."""
        ...

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """(first id, vectors [n, dim]) of every block; the ids rise from 1."""
        ...


class HeldItems:
    """Vectors [L, dim] in memory."""

    streams = False

    def __init__(self, vectors: Tensor, catalogue: Catalogue) -> None:
        self.vectors, self.catalogue = vectors, catalogue

    def __len__(self) -> int:
        return max(-(-len(self.vectors) // BLOCK), 1)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for begin in range(0, max(len(self.vectors), 1), BLOCK):
            yield begin + 1, self.vectors[begin : begin + BLOCK]


@torch.no_grad()
def rank_products(
    queries: Sequence[Query],
    items: ItemBlocks,
    k: int,
    *,
    mixture: bool = False,
    alone: bool = True,
    targets: bool = True,
    offset: Tensor | None = None,
    precision: torch.dtype = torch.float32,
) -> list[list[Ranked]]:
    """Ranks of the targets and the k best items of every user of every query, from one pass over
    the items (two, if they are several blocks).

    Args:
        mixture: also rank by the interpolation with what is remembered of the queries.
        alone: rank by the products alone.
        targets: whether a query has targets; the same for all workers that share the items.
        offset: [largest id] what is added to the score of each item, after the probabilities of
            the mixture are computed; -inf: the item is not ranked.
        precision: of the factors of the products.

    Returns:
        For every query the result of the products alone, then of the mixture, as far as wanted.

    Raises:
        TrainingError: a vector has values that are not finite numbers.
    """
    single, k = len(items) == 1, min(k, len(items.catalogue))
    device = queries[0].users.device if queries else torch.device("cpu")
    offset = offset if offset is None else offset.to(device)
    tiles = [
        [Tile(q, rows, k, mixture, alone, single, offset, precision) for rows in _tiles(q)]
        for q in queries
    ]
    extremes = [_extremes(query.users) for query in queries]
    room = Room(device)
    passes = [(True, True)] if single else [(True, False), (False, True)]
    if not targets and not mixture:
        passes = [(False, True)]
    for look, rank in passes:
        for first, vectors in items if single else _strips(items, device):
            extremes.append(_extremes(vectors))
            absent = items.catalogue.absent
            begin, end = np.searchsorted(absent, (first, first + len(vectors)))
            hidden = placed(absent[begin:end] - first, device)
            factors = vectors.to(precision)
            for tile in (tile for part in tiles for tile in part):
                scores = room.product(tile.users, factors)[: tile.size]
                scores.index_fill_(1, hidden, -torch.inf)
                if look:
                    tile.look(scores, first, room)
                if offset is not None:
                    scores.add_(offset[first - 1 : first - 1 + len(vectors)])
                tile.hide(scores, first)
                if look:
                    tile.look_at_targets(scores, first)
                if rank:
                    tile.rank(scores, first, room)
    _check(extremes)
    return [
        [_joined([tile.result(i) for tile in part], k) for i in range(alone + mixture)]
        for part in tiles
    ]


@torch.no_grad()
def rank_given(
    query: Query, scores: Callable[[slice], Tensor], catalogue: Catalogue, k: int
) -> Ranked:
    """Ranks of the targets and the k best items of every user by given scores.

    Args:
        query: of which the vectors are not used, only their number.
        scores: a range of users → [b, L] their scores, which may be written to.
    """
    room, k = Room(query.users.device), min(k, len(catalogue))
    absent = torch.from_numpy(catalogue.absent - 1)
    results = []
    for rows in _tiles(query):
        tile = Tile(query, rows, k, False, True, True)
        found = scores(rows).index_fill_(1, absent, -torch.inf)
        tile.hide(found, 1)
        tile.look_at_targets(found, 1)
        tile.rank(found, 1, room)
        results.append(tile.result(0))
    return _joined(results, k)


def _strips(items: ItemBlocks, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """The blocks in strips whose scores stay in the cache of the processor."""
    strip = STRIP.get(device.type, _STRIP_ON_GPU)
    for first, vectors in items:
        for begin in range(0, len(vectors), strip):
            yield first + begin, vectors[begin : begin + strip]


def _tiles(query: Query) -> Iterator[slice]:
    size = TILE.get(query.users.device.type, _TILE_ON_GPU)
    for begin in range(0, len(query.users), size):
        yield slice(begin, min(begin + size, len(query.users)))


def _extremes(vectors: Tensor) -> Tensor:
    """[2] the smallest and the largest number; NaN if one is NaN. A tenth of the time of asking
    every number whether it is finite."""
    return torch.stack(vectors.aminmax()) if vectors.numel() else vectors.new_zeros(2)


def _check(extremes: list[Tensor]) -> None:
    """Asked once at the end, so that nothing waits for the device on the way."""
    if extremes and not torch.isfinite(torch.stack(extremes)).all():
        raise TrainingError(
            "vectors of the model are not finite numbers (NaN or infinity)",
            rule="items can only be ranked by numbers",
            fix="look at the loss of the training stage; train again with lower learning rates",
        )


def _joined(parts: list[Ranked], k: int) -> Ranked:
    """The results of tiles as one."""
    nothing = np.zeros(0, np.int64), Lists(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
    ranks = np.concatenate([nothing[0], *(ranks for ranks, _ in parts)])
    ids = np.concatenate([nothing[1].ids, *(lists.ids for _, lists in parts)])
    scores = np.concatenate([nothing[1].scores, *(lists.scores for _, lists in parts)])
    return ranks, Lists(ids, scores)
