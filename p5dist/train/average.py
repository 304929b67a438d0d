"""An exponential moving average of the weights (Polyak and Juditsky 1992), often better to rank
with than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from p5dist.checkpoint.pieces import AVERAGE, pieces_of
from p5dist.config.train import Averaging


class Average:
    """The average of this worker's part of every weight.

    Args:
        weights: name → tensor or ShardedTensor that training changes in place.
    """

    def __init__(self, config: Averaging, weights: dict[str, Any]) -> None:
        self.config = config
        self._weights = pieces_of(weights, replicated=True)
        self._whole = {name for name, v in weights.items() if not hasattr(v, "local_shards")}
        self._averages = [replace(p, values=p.values.clone()) for p in self._weights]

    @torch.no_grad()
    def restart(self) -> None:
        """Begin with the weights as they are."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.values.copy_(weight.values)

    @torch.no_grad()
    def update(self, done: int) -> None:
        """After ``done`` steps; the average is young at first and so are its weights."""
        if done % self.config.every:
            return
        age = done // self.config.every
        decay = min(self.config.decay**self.config.every, age / (age + 9))
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.values.lerp_(weight.values, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average as its weights while the block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self._averages, self._weights, strict=True):
            kept = weight.values.clone()
            weight.values.copy_(average.values)
            average.values.copy_(kept)

    def state(self) -> dict[str, Any]:
        """Name → whole tensor, or this worker's pieces; to be saved or loaded in place."""
        state: dict[str, Any] = {}
        for piece in self._averages:
            name = AVERAGE + piece.name
            if piece.name in self._whole:
                state[name] = piece.values
            else:
                state.setdefault(name, []).append(replace(piece, name=name))
        return state
