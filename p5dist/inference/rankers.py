"""The rankers of a job: the model, alone or with item-to-item counts, and the baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from p5dist.config.output import Ranking
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged
from p5dist.ranking.diversity import diversified
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.ranking.mixture import Mixture
from p5dist.ranking.products import rank_products
from p5dist.ranking.rough import HEAD, with_exact_head
from p5dist.ranking.sparse import rank_and_list_sparse
from p5dist.ranking.tiles import Query
from p5dist.ranking.topk import Lists, Ranked, Ranker

MODEL, MODEL_ALONE = "model", "model_alone"
_NONE = np.empty(0, dtype=np.int64)
_GIB = 1 << 30


class Vectors(Protocol):
    """A model whose scores are inner products of user and item vectors."""

    catalogue: Catalogue

    def items(self, held: int = 0) -> Any:
        """The item vectors in blocks (:class:`.products.ItemBlocks`), of which at most ``held``
        bytes stay in memory; ``streams`` tells whether they do not."""
        ...

    def item_vectors(self, ids: Ints | None = None) -> Tensor:
        """[n, dim] of the items ``ids`` [n]."""
        ...

    def user_vectors(self, histories: Histories) -> Tensor:
        """[B, dim]"""
        ...


@dataclass(frozen=True)
class Request:
    """Histories to rank for; see :meth:`.topk.Ranker.rank_and_list`."""

    histories: Histories
    """[B]"""
    seen: Jagged | None
    """[B]"""
    owner: Ints = field(default_factory=lambda: _NONE)
    """[M]"""
    target: Ints = field(default_factory=lambda: _NONE)
    """[M]"""


@dataclass(frozen=True)
class ListRules:
    """How the lists of the model are made, beside its scores."""

    offset: Tensor | None = None
    """See :func:`.products.rank_products`."""
    diversity: float = 0.0
    """See :func:`.diversity.diversified`; 0: by score alone."""
    depth: int = 0
    """Items that ``diversity`` chooses among."""


class Rankers:
    """Ranks by the model and by the baselines.

    Args:
        config: the section ``ranking`` of the job.
        model: None: the baselines only.
        mixture: of the model with counts; None: the model ranks alone.
        baselines: other than item to item.
        compared: item-to-item counts: also rank by them, and by the model alone if there is a
            mixture; None: rank only by what the job ranks by.
    """

    def __init__(
        self,
        config: Ranking,
        model: Vectors | None,
        mixture: Mixture | None,
        baselines: Sequence[Ranker] = (),
        *,
        compared: ItemToItem | None = None,
    ) -> None:
        self._model, self._mixture, self._baselines = model, mixture, baselines
        self._compared = compared
        self._rounds = config.products == "bfloat16"
        half = int(config.memory * _GIB) // 2
        self._waiting = half
        self._items = None if model is None else model.items(half)

    def __call__(
        self, requests: Iterable[Request], k: int, rules: ListRules | None = None
    ) -> Iterator[Mapping[str, Ranked]]:
        """For every request ranks and lists by name of the ranker.

        Requests wait for each other in memory, so that one pass over item vectors that are not in
        memory serves many.

        Args:
            k: length of the lists.
            rules: of the lists of the model, not of the baselines.

        Raises:
            TrainingError: vectors of the model are not numbers.
        """
        rules = ListRules() if rules is None else rules
        waiting: list[tuple[Query | None, dict[str, Ranked]]] = []
        size = 0
        for request in requests:
            query, others = self._begin(request, k)
            waiting.append((query, others))
            size += _bytes(query, max(k, rules.depth))
            if size >= self._waiting or not self._streams:
                yield from self._finish(waiting, k, rules)
                waiting, size = [], 0
        yield from self._finish(waiting, k, rules)

    @property
    def _streams(self) -> bool:
        """Whether a pass over the item vectors reads them again."""
        return self._items is not None and len(self._items) > 1 and bool(self._items.streams)

    def _begin(self, request: Request, k: int) -> tuple[Query | None, dict[str, Ranked]]:
        """The query to the model, and the results of the baselines."""
        histories, owner, target = request.histories, request.owner, request.target
        found = {
            baseline.name: baseline.rank_and_list(
                histories, owner, target, min(k, len(baseline.catalogue)), seen=request.seen
            )
            for baseline in self._baselines
        }
        counted = None
        if self._compared is not None:
            counted = self._compared.scores(histories)
            found[self._compared.name] = rank_and_list_sparse(
                counted, self._compared.catalogue, owner, target, k, seen=request.seen
            )
        if self._model is None:
            return None, found
        users = self._model.user_vectors(histories)
        remembered = None
        if self._mixture is not None:
            remembered = self._mixture.remembered(histories, counted)
        return Query(users, owner, target, request.seen, remembered), found

    def _finish(
        self, waiting: list[tuple[Query | None, dict[str, Ranked]]], k: int, rules: ListRules
    ) -> Iterator[Mapping[str, Ranked]]:
        queries = [query for query, _ in waiting if query is not None]
        ranked: list[list[Ranked]] = [[] for _ in waiting]
        names: list[str] = []
        if queries:
            assert self._items is not None
            alone = self._mixture is None or self._compared is not None
            depth = max(k, rules.depth)
            ranked = rank_products(
                queries, self._items, depth * HEAD if self._rounds else depth,
                mixture=self._mixture is not None, alone=alone,
                targets=any(len(query.target) for query in queries), offset=rules.offset,
                precision=torch.bfloat16 if self._rounds else torch.float32,
            )  # fmt: skip
            if self._rounds:
                ranked = self._with_exact_heads(queries, ranked, depth, rules.offset)
            names = [MODEL] if self._mixture is None else [MODEL_ALONE, MODEL][not alone :]
        for (_, others), own in zip(waiting, ranked, strict=True):
            by_name = {
                name: (ranks, self._chosen(lists, k, rules))
                for name, (ranks, lists) in zip(names, own, strict=True)
            }
            order = [name for name in (MODEL, MODEL_ALONE) if name in by_name]
            yield {name: by_name[name] for name in order} | others

    def _with_exact_heads(
        self, queries: list[Query], ranked: list[list[Ranked]], k: int, offset: Tensor | None
    ) -> list[list[Ranked]]:
        assert self._model is not None
        vectors = self._model.item_vectors
        return [
            [with_exact_head(query, rough, vectors, k, offset)]
            for query, (rough,) in zip(queries, ranked, strict=True)
        ]

    def _chosen(self, lists: Lists, k: int, rules: ListRules) -> Lists:
        if not rules.diversity:
            return lists
        assert self._model is not None
        return diversified(lists, self._model.item_vectors, k, rules.diversity)


def _bytes(query: Query | None, k: int) -> int:
    """About the memory of a waiting query and its results."""
    if query is None:
        return 0
    users, width = query.users.shape
    size = 4 * users * width + 24 * users * k + 32 * len(query.target)
    if query.seen is not None:
        size += 24 * len(query.seen.values)
    counted = query.counted
    if counted is not None:
        size += counted.nbytes if isinstance(counted, np.ndarray) else 40 * counted.nnz
    return size
