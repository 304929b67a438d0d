"""Several objectives or tasks over one backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from p5dist.data.batch import Batch
from p5dist.models.backbone import Backbone, Encoded
from p5dist.tasks.module import TaskModule


class MultiModule(TaskModule):
    """The losses of its parts, combined with factors.

    Learned factors follow homoscedastic uncertainty (Kendall, Gal and Cipolla 2018): loss L_k adds
    ``exp(-s_k) L_k + s_k / 2`` with a learned log-variance s_k, and ``exp(-s_k) L_k / 2 + s_k / 2``
    if L_k is a squared error.

    Args:
        parts: modules by name.
        weights: factor on each loss, 1 if not named; None: learned.
    """

    def __init__(self, parts: dict[str, TaskModule], weights: dict[str, float] | None) -> None:
        super().__init__()
        self.names = tuple(parts)
        self.parts = nn.ModuleList(parts.values())
        self.reads_states = any(part.reads_states for part in parts.values())
        self.log_variance = nn.Parameter(torch.zeros(len(parts))) if weights is None else None
        factors = [
            (0.5 if part.squared_error else 1.0) if weights is None else weights.get(name, 1.0)
            for name, part in parts.items()
        ]
        self.factors: Tensor
        self.register_buffer("factors", torch.tensor(factors), persistent=False)

    def counts(self, batch: Batch) -> list[float]:
        """The counts of all parts, in order."""
        return [count for part in self._parts() for count in part.counts(batch)]

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """The losses of all parts, in order, from the same states."""
        return torch.cat([part.losses(encoded, batch) for part in self._parts()])

    def combine(self, losses: Tensor) -> Tensor:
        weighted = self.factors * losses
        if self.log_variance is None:
            return weighted.sum()
        return (torch.exp(-self.log_variance) * weighted + self.log_variance / 2).sum()

    def part(self, name: str) -> TaskModule:
        """The part ``name``."""
        return self._parts()[self.names.index(name)]

    def user_vectors(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The user vectors of the first part that ranks."""
        ranking = next(part for part in self._parts() if part.ranks)
        return ranking.user_vectors(backbone, batch)

    def _parts(self) -> list[TaskModule]:
        return list(self.parts)  # type: ignore[arg-type]
