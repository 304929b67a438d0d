"""A device that is not there: tensors of it have shapes and types but no values, and an operation
fails where devices are mixed, or where its result depends on values that the host would have to
wait for.

``FakeTensorMode`` of PyTorch does both. Its tensors on ``cuda`` have no gradients in a build of
PyTorch without CUDA, so the device is one that Python code registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from p5dist.data.batch import Batch

NAME = "pretend"


def register() -> None:
    """Once in a process, which is not used for other tests."""
    _setup_privateuseone_for_python_backend(NAME)


@contextmanager
def no_values() -> Iterator[None]:
    """Tensors made inside have no values."""
    with FakeTensorMode():
        yield


def like(tensor: Tensor) -> Tensor:
    """Of the same shape and type, on the device."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=NAME)


def moved(batch: Batch) -> Batch:
    """The batch, on the device."""
    return batch.each(lambda x: _keyed(x) if isinstance(x, KeyedJaggedTensor) else like(x))


def _keyed(given: KeyedJaggedTensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=given.keys(), values=like(given.values()), lengths=like(given.lengths()),
        stride=given.stride(),
    )  # fmt: skip


def move(module: nn.Module) -> None:
    """Put a module on the device; tables become modules that look nothing up."""
    for name, child in module.named_children():
        if isinstance(child, EmbeddingCollection):
            setattr(module, name, Rows(child))
        elif isinstance(child, EmbeddingBagCollection):
            setattr(module, name, Bags(child))
        else:
            move(child)
    for name, parameter in list(module._parameters.items()):
        if parameter is not None:
            module._parameters[name] = nn.Parameter(like(parameter), parameter.requires_grad)
    for name, buffer in list(module._buffers.items()):
        if buffer is not None:
            module._buffers[name] = like(buffer)


class Rows(nn.Module):
    """Stands for an EmbeddingCollection of one table."""

    def __init__(self, table: EmbeddingCollection) -> None:
        super().__init__()
        (self.config,) = table.embedding_configs()
        self.weight = nn.Parameter(torch.empty(1, self.config.embedding_dim, device=NAME))

    def forward(self, ids: KeyedJaggedTensor) -> dict[str, Any]:
        rows = self.weight.expand(len(ids.values()), -1) * on_device(ids.values()).unsqueeze(1)
        return {self.config.feature_names[0]: Found(rows)}


class Bags(nn.Module):
    """Stands for an EmbeddingBagCollection."""

    def __init__(self, table: EmbeddingBagCollection) -> None:
        super().__init__()
        width = sum(config.embedding_dim for config in table.embedding_bag_configs())
        self.weight = nn.Parameter(torch.empty(1, width, device=NAME))

    def forward(self, ids: KeyedJaggedTensor) -> Found:
        on_device(ids.values())
        return Found(self.weight.expand(ids.stride(), -1))


class Found:
    """Rows that were looked up."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def values(self) -> Tensor:
        return self._rows


def on_device(ids: Tensor) -> Tensor:
    assert ids.device.type == NAME, "ids are looked up on the device of the table"
    return ids
