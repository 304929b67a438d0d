"""Exchanges between the workers in memory of the host, beside the step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from p5dist.data.jagged import Ints


class HostGroup:
    """All workers in a group of their own, so that an exchange may run beside those of the step.
    All workers call a method together, each time from the same thread."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if dist.get_world_size() > 1 else None

    def gather(self, values: Ints) -> list[Ints]:
        """Equally shaped arrays of all workers, in the order of ranks."""
        if self._group is None:
            return [values]
        parts = [torch.empty(values.shape, dtype=torch.int64) for _ in range(self._group.size())]
        dist.all_gather(parts, torch.from_numpy(values), group=self._group)
        return [part.numpy() for part in parts]

    def add(self, values: Ints) -> Ints:
        """The sum of equally shaped arrays of all workers."""
        total = torch.from_numpy(values)
        if self._group is not None:
            dist.all_reduce(total, group=self._group)
        return total.numpy()

    def add_numbers(self, values: Sequence[float]) -> list[float]:
        """The sums over the workers of each number."""
        total = torch.tensor(values, dtype=torch.float64)
        if self._group is not None:
            dist.all_reduce(total, group=self._group)
        return list(total.tolist())
