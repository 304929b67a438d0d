"""Compiles the kernels for a GPU that need not be there; test_kernels.py runs it in a process of
its own."""

from __future__ import annotations

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from p5dist.models.encoders.attention import kernels

H100 = GPUTarget("cuda", 90, 32)
KERNELS = ("attend_forward", "attend_backward_keys", "attend_backward_queries")
SETTINGS: dict[str, dict[str, Any]] = {
    "bf16 silu": {
        "SOFTMAX": False, "CAUSAL": True, "HAS_DISTANCE": True, "HAS_INTERVAL": True,
        "PRECISION": "ieee", "D": 128, "M": 64, "N": 64,
    },
    "fp32 softmax": {
        "SOFTMAX": True, "CAUSAL": False, "HAS_DISTANCE": False, "HAS_INTERVAL": True,
        "PRECISION": "tf32", "D": 64, "M": 32, "N": 32,
    },
}  # fmt: skip
TYPES = {
    "LOG_SUM": "*fp32", "DELTA": "*fp32", "DISTANCE": "*fp32", "INTERVAL": "*fp32",
    "OF_DISTANCE": "*fp32", "OF_INTERVAL": "*fp32", "OFFSETS": "*i64", "TIMES": "*fp64",
    "scale": "fp32",
}  # fmt: skip


def shared_memory(name: str, settings: str) -> int:
    """Bytes of a program of the kernel, compiled down to machine code."""
    kernel, constants = getattr(kernels, name), SETTINGS[settings]
    values = {"Q", "K", "V", "OUT", "GRAD", "OF_Q", "OF_K", "OF_V"}
    kinds = {
        argument: "constexpr" if argument in constants
        else "*" + settings.split()[0] if argument in values
        else TYPES.get(argument, "i32")
        for argument in kernel.arg_names
    }  # fmt: skip
    made = triton.compile(ASTSource(kernel, kinds, constants), target=H100)
    assert made.asm["cubin"]
    return int(made.metadata.shared)


if __name__ == "__main__":
    found = {f"{name} {s}": shared_memory(name, s) for name in KERNELS for s in SETTINGS}
    print(json.dumps(found))
