"""The contrastive loss over the histories of a step, whichever workers have them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p5dist.data.batch import Batch
from p5dist.models.backbone import Encoded
from p5dist.models.precision import as_written
from p5dist.tasks.module import TaskModule


class ContrastiveModule(TaskModule):
    """See :class:`p5dist.tasks.contrastive.Contrastive`.

    The loss of view i of 2N, with similarity s and temperature τ, is
    ``-1/|P(i)| Σ_{p ∈ P(i)} log exp(s_ip / τ) / Σ_{j ≠ i} exp(s_ij / τ)``; P(i) is the other view
    of the history, and with ``positive`` all views of histories that end with the same item; with
    ``ignored`` such views are not among the j.

    Args:
        name: of the objective.
        temperature, same_item: as the settings.
        lanes, batch_size: of the job; a worker has whole lanes of a batch.
    """

    compares_histories = True

    def __init__(
        self, name: str, *, temperature: float, same_item: str, lanes: int, batch_size: int
    ) -> None:
        super().__init__()
        self.name, self.temperature, self.same_item = name, temperature, same_item
        self.lanes, self.batch_size = lanes, batch_size

    def counts(self, batch: Batch) -> list[float]:
        """Views of this worker's histories."""
        return [2.0 * batch.histories]

    def losses(self, encoded: Encoded, batch: Batch) -> Tensor:
        """[1]"""
        own = torch.stack([F.normalize(view.float(), dim=1, eps=1e-6) for view in encoded.views])
        last = batch.fields[self.name]["last"]
        room = self._room(len(last))
        every = _gathered(own, room)  # [2, W · room, dim]
        items = _all(F.pad(last, (0, room - len(last)), value=-1))
        there = items >= 0
        first = (dist.get_rank() if dist.is_initialized() else 0) * room
        mine = first + torch.arange(len(last), device=own.device)
        with as_written(own):
            logits = own.flatten(0, 1) @ every.flatten(0, 1).T / self.temperature
        # Row v · B + b is view v of history b, column v · N + n view v of history n.
        same = last.unsqueeze(1) == items.unsqueeze(0)
        one = mine.unsqueeze(1) == torch.arange(len(items), device=own.device).unsqueeze(0)
        alike, one = same.repeat(2, 2), one.repeat(2, 2)
        view = torch.arange(2, device=own.device)
        of_row, of_column = view.repeat_interleave(len(last)), view.repeat_interleave(len(items))
        itself = one & (of_row.unsqueeze(1) == of_column.unsqueeze(0))
        other = one & ~itself
        positive = (alike & ~itself) if self.same_item == "positive" else other
        left_out = itself | ~there.repeat(2).unsqueeze(0)
        if self.same_item == "ignored":
            left_out = left_out | (alike & ~other)
        log_p = F.log_softmax(logits.masked_fill(left_out, -torch.inf), dim=1)
        picked = torch.where(positive, log_p, 0.0).sum(1) / positive.sum(1).clamp(min=1)
        return -picked.sum().reshape(1)

    def _room(self, histories: int) -> int:
        """The most histories that a worker has; without other workers, those of the batch."""
        workers = dist.get_world_size() if dist.is_initialized() else 1
        if workers == 1:
            return histories
        lanes = -(-self.lanes // workers)
        room = lanes * -(-self.batch_size // self.lanes)
        assert histories <= room, "a worker has whole lanes of a batch"
        return room


def _gathered(own: Tensor, room: int) -> Tensor:
    """[2, B, dim] of this worker → [2, W · room, dim] of all, zero where nothing is; the gradient
    goes back to the workers."""
    padded = F.pad(own, (0, 0, 0, room - own.shape[1]))
    gathered: Tensor = _Gather.apply(padded)  # type: ignore[no-untyped-call]
    return gathered


def _all(values: Tensor) -> Tensor:
    """[room] of this worker → [W · room] of all."""
    if not dist.is_initialized():
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """Concatenates dimension 1 of all workers; backwards the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.rows = own.shape[1]
        if not dist.is_initialized():
            return own.clone()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        if not dist.is_initialized():
            return gradient
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.rows
        return total[:, first : first + ctx.rows]
