"""Tensors with values in memory of the host that say that they are on another device.

What cannot run without values (ranking: sizes depend on the data) runs with these: an operation on
tensors of two devices fails, as does NumPy on a tensor of the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from tests.devices.pretend import NAME

_ALSO_ON_HOST = ("aten::_to_copy", "aten::copy_")
"""Operations whose arguments may be on two devices."""


class MixedDevicesError(Exception):
    """Tensors of two devices in one operation."""


class Tagged(Tensor):
    """A tensor on the device.

    Args:
        inner: its values.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Tagged:
        made: Tagged = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=f"{NAME}:0",
            storage_offset=inner.storage_offset(),
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class OnDevice(TorchDispatchMode):
    """Operations inside know the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation on the values."""
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    tagged = [x for x in given if isinstance(x, Tagged)]
    name = func._schema.name
    elsewhere = [x for x in given if not isinstance(x, Tagged) and x.dim()]
    if tagged and elsewhere and name not in _ALSO_ON_HOST:
        raise MixedDevicesError(f"{name}: {[tuple(x.shape) for x in elsewhere]} not on the device")
    to = kwargs.get("device")
    if to is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    if name == "aten::_local_scalar_dense":
        return out
    on_device = bool(tagged) if to is None else torch.device(to).type == NAME
    if name == "aten::copy_":
        on_device = isinstance(args[0], Tagged)
    known = {id(x.inner): x for x in tagged}
    return tree_map(lambda x: _wrapped(x, known) if on_device else x, out)


def _values(x: Any) -> Any:
    return x.inner if isinstance(x, Tagged) else x


def _wrapped(x: Any, known: dict[int, Tagged]) -> Any:
    """Operations in place return what they were given."""
    if not isinstance(x, Tensor):
        return x
    return known[id(x)] if id(x) in known else Tagged(x)
