"""Precision of products: float32, TF32 or bfloat16 factors; results are float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "tf32", "bf16"]
_AUTOCAST = ("cpu", "cuda")


def set_precision(precision: Precision) -> None:
    """Allow this process TF32 in products of float32 on CUDA, unless ``precision`` is float32."""
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")


def dense_part(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of the forward pass of the dense part."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def factor_type(tensor: Tensor) -> torch.dtype:
    """Type of the factors of products on the device of ``tensor``, as the context says."""
    kind = tensor.device.type
    lower = kind in _AUTOCAST and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lower else tensor.dtype


def as_written(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which operations on the device of ``tensor`` keep the types they are given."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if kind in _AUTOCAST else nullcontext()


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """The matrix product of equally typed factors; of factors in half precision, with float32 sums
    and a float32 result.

    Args:
        out: room for the result, if the factors are not in half precision.
    """
    if not is_half(a.dtype):
        return torch.mm(a, b, out=out)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add :func:`product` to ``total`` in place."""
    if is_half(a.dtype):
        total += product(a, b)
    else:
        total.addmm_(a, b)


def is_half(kind: torch.dtype) -> bool:
    """Whether numbers of the type have 16 bits."""
    return kind in (torch.bfloat16, torch.float16)
