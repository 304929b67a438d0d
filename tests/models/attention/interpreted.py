"""The kernels beside attention in rectangles: run by test_kernels.py in a process in which Triton
interprets kernels on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from p5dist.data.batch import Batch
from p5dist.models.encoders.attention import jagged, padded
from p5dist.models.encoders.bias import DistanceBias, IntervalBias, IntervalClasses
from tests.models.test_encoder_contract import batch_of

LENGTHS = [37, 5, 1, 0, 40]
LONGEST = 40
HEADS, WIDTH = 2, 12  # not a power of two


def biases(distance: bool, interval: int, causal: bool) -> list[Any]:
    torch.manual_seed(1)
    by_distance = DistanceBias(LONGEST, causal=causal) if distance else None
    by_time = IntervalBias(interval) if interval else None
    for module in (by_distance, by_time):
        if module is not None:
            torch.nn.init.normal_(module.table)
    return [by_distance, by_time]


def both_ways(
    batch: Batch, order: tuple[int, int, int], by_distance: Any, by_time: Any, activation: Any,
    causal: bool,
) -> Iterator[tuple[Tensor, ...]]:  # fmt: skip
    """Output and gradients of the kernels, then of the rectangles."""
    torch.manual_seed(0)
    given = torch.randn(len(batch.token), 3 * HEADS * WIDTH)
    weight = torch.randn(len(batch.token), HEADS * WIDTH)
    tables = [m.table for m in (by_distance, by_time) if m is not None]
    times = IntervalClasses(batch, causal=causal)
    for kernels in (True, False):
        packed = given.clone().requires_grad_()
        if kernels:
            out = jagged.attend(
                packed, order, HEADS,
                jagged.Histories(batch.offsets, LONGEST, times.seconds if by_time else None),
                jagged.Biases(
                    by_distance.table if by_distance else None, by_time.table if by_time else None,
                    by_distance.longest if by_distance else 0,
                ),
                activation=activation, causal=causal,
            )  # fmt: skip
        else:
            out = padded.attend(
                packed, batch, order, HEADS, activation=activation, causal=causal,
                distance=by_distance, interval=by_time, intervals=times if by_time else None,
            )  # fmt: skip
        yield out.detach(), *torch.autograd.grad((out * weight).sum(), [packed, *tables])


def difference(activation: str, distance: bool, interval: int, causal: bool) -> float:
    """Largest difference of the output and all gradients, relative to 1 + the expected value."""
    batch = batch_of(LENGTHS)
    order = (0, 1, 2) if activation == "softmax" else (1, 2, 0)
    made = biases(distance, interval, causal)
    found, expected = both_ways(batch, order, *made, activation, causal)
    assert len(found) == 2 + distance + bool(interval)
    pairs = zip(found, expected, strict=True)
    return max(float(((one - other).abs() / (1 + other.abs())).max()) for one, other in pairs)


CASES = {
    f"{activation} {'distance ' * distance}{'interval ' * bool(interval)}{way}": (
        activation, distance, interval, way == "causal",
    )
    for way in ("causal", "both")
    for activation, distance, interval in (
        ("softmax", False, 0), ("softmax", False, HEADS), ("silu", True, 1), ("silu", True, 0),
    )
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps({name: difference(*case) for name, case in CASES.items()}))
