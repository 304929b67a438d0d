"""Small tables of items as whole copies on every worker.

TorchRec applies the gradient of a lookup at once, so the gradients of single users must not reach
it. In a private step the model looks small tables up in copies, whose gradients are ordinary
tensors; every other table answers without a gradient. Afterwards one more lookup of all rows
hands the sum of all users, with its noise, to the optimizer of the table, however the table is
split.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding_types import ShardedEmbeddingModule
from torchrec.distributed.types import LazyAwaitable
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from p5dist.data.batch import ITEM_FEATURE
from p5dist.models.tables import ItemTables

_OTHER = "only tables of items are trained: a row of a user says nothing under the privacy of users"

ITEMS = "backbone.items."


@dataclass(frozen=True)
class Table:
    """A trained table."""

    name: str
    feature: str
    rows: int
    """Row 0 is padding."""
    dim: int
    bags: bool


class Rows:
    """The tables of a model in private steps.

    Args:
        model: sharded, with tables of items at :data:`ITEMS`.
        items: these tables.
        limit: tables with more rows are frozen.
        device: of the copies.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        items: ItemTables,
        *,
        limit: int,
        device: torch.device,
    ) -> None:
        plan = model.plan
        self._items, self._device = items, device
        self._sharded: list[Any] = [
            m for m in model.modules() if isinstance(m, ShardedEmbeddingModule)
        ]
        named = [] if items.ids is None else [
            Table(ITEM_FEATURE, ITEM_FEATURE, items.rows, items.dim, False)
        ]  # fmt: skip
        named += [
            Table(f"{ITEM_FEATURE}_{name}", name, values + 1, items.dim, True)
            for name, values in (items.attributes if items.bags is not None else {}).items()
        ]
        self.trained = [t for t in named if t.rows <= limit and not items.frozen]
        self.frozen = {
            t.name: "as the job says" if items.frozen else f"{t.rows:,} rows, more than {limit:,}"
            for t in named
            if t not in self.trained
        }
        """Why tables are frozen, by name."""
        for path, tables in plan.plan.items():
            if not path.startswith(ITEMS):
                self.frozen |= {f"{path}.{name}": _OTHER for name in tables}
        self._copies: dict[str, Tensor] = {}

    @property
    def exchanges(self) -> bool:
        """Whether the forward pass of a user looks rows up on other workers, so that all workers
        must make equally many."""
        return bool(self.frozen)

    def read(self) -> dict[str, Tensor]:
        """The copies of the trained tables as they are now, by name; all workers call it."""
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            for table, values in self._looked_up({t.name: _all(t) for t in self.trained}):
                found[table.name] = values.detach().clone().requires_grad_()
        self._copies = found
        return found

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model looks trained tables up in the copies, and others without gradient."""
        before = {module: module.forward for module in self._sharded}
        for module in self._sharded:
            module.forward = partial(_without_gradient, module)
        ids, bags = self._items.ids, self._items.bags
        if any(not t.bags for t in self.trained):
            assert ids is not None
            ids.forward = self._ids
        if any(t.bags for t in self.trained):
            assert bags is not None
            bags.forward = partial(self._bags, bags)
        try:
            yield
        finally:
            for module, forward in before.items():
                module.forward = forward

    def apply(self, gradients: dict[str, Tensor]) -> None:
        """Update the trained tables by the gradients of all their rows; all workers call it.

        Each worker hands over its part of the rows; TorchRec divides gradients by the number of
        workers.
        """
        rank, workers = dist.get_rank(), dist.get_world_size()
        parts = {t.name: _all(t)[rank::workers].contiguous() for t in self.trained}
        total: Tensor | float = 0.0
        with torch.enable_grad():
            for table, values in self._looked_up(parts):
                own = gradients[table.name][rank::workers].to(self._device)
                total = total + (values * own).sum() * workers
        if isinstance(total, Tensor):
            torch.autograd.backward(total)

    def _looked_up(self, ids: dict[str, Tensor]) -> Iterator[tuple[Table, Tensor]]:
        """The rows [n, dim] of chosen ids [n] of each trained table, from wherever they are."""
        single = [t for t in self.trained if not t.bags]
        for table in single:
            chosen = ids[table.name].to(self._device)
            asked = KeyedJaggedTensor(
                [table.feature], chosen, lengths=_counts(len(chosen), self._device), stride=1
            )
            module: Any = self._items.ids
            yield table, type(module).forward(module, asked)[table.feature].values()
        bags = [t for t in self.trained if t.bags]
        if not bags:
            return
        stride = max(len(ids[t.name]) for t in bags)
        by_feature = {t.feature: ids[t.name] for t in bags}
        keys = list(self._items.attributes)
        none = torch.zeros(0, dtype=torch.int64)
        values = [by_feature.get(key, none) for key in keys]
        lengths = torch.stack([torch.arange(stride) < len(v) for v in values]).flatten()
        asked = KeyedJaggedTensor(
            keys, torch.cat(values).to(self._device),
            lengths=lengths.to(self._device, torch.int32), stride=stride,
        )  # fmt: skip
        module = self._items.bags
        pooled = type(module).forward(module, asked)
        for table in bags:
            yield table, pooled[table.feature][: len(ids[table.name])]

    def _ids(self, items: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """In place of the lookup of id rows."""
        rows = F.embedding(items.values(), self._copies[ITEM_FEATURE])
        return {ITEM_FEATURE: JaggedTensor(rows, lengths=items.lengths())}

    def _bags(self, module: Any, attributes: KeyedJaggedTensor) -> KeyedTensor:
        """In place of the lookup of attribute rows."""
        copied = {t.feature: self._copies[t.name] for t in self.trained if t.bags}
        keys, other = list(self._items.attributes), None
        if len(copied) < len(keys):
            other = _without_gradient(module, attributes)
        pooled = [
            _pooled(copied[key], attributes[key]) if key in copied else other[key]  # type: ignore[index]
            for key in keys
        ]
        return KeyedTensor(keys, [self._items.dim] * len(keys), torch.cat(pooled, dim=1))


def _all(table: Table) -> Tensor:
    return torch.arange(table.rows)


def _counts(number: int, device: torch.device) -> Tensor:
    return torch.tensor([number], dtype=torch.int32, device=device)


def _pooled(rows: Tensor, bags: JaggedTensor) -> Tensor:
    """[bags, dim] means, zero for an empty bag."""
    values = bags.values()
    return F.embedding_bag(
        values, rows, bags.offsets().to(values.dtype), mode="mean", include_last_offset=True
    )


def _without_gradient(module: Any, features: KeyedJaggedTensor) -> Any:
    with torch.no_grad():
        found = type(module).forward(module, features)
        return found.wait() if isinstance(found, LazyAwaitable) else found
