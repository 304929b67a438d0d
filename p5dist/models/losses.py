"""Losses over the catalogue, as sums: the caller divides by the global count.

Logits exist for one chunk of predictions at a time, and the forward pass overwrites them with their
gradient: memory is bounded by the chunk (at least the logits of one prediction), whatever the size
of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function

from p5dist.config.losses import FullSoftmax, GeneralisedBce, Loss
from p5dist.data.batch import Batch

CHUNK = 1 << 20
"""Logits held at once: 4 MB in float32."""


def catalogue_loss(
    states: Tensor,
    target: Tensor,
    items: Tensor,
    batch: Batch,
    weight: Tensor | None = None,
    *,
    loss: Loss,
) -> Tensor:
    """Loss of M predictions against the candidates of the batch: a scalar sum.

    The sampled softmax estimates the partition function by importance sampling: the positive
    counts once, each of n negatives drawn from q adds ``exp(logit_j) / (n q_j)``, and negatives
    equal to the positive are left out, which makes the estimate unbiased (Bengio and Senécal
    2008).

    Args:
        states: [M, dim]
        target: [M] index of the positive in ``items``.
        items: [U, dim] vectors of the distinct items of the batch.
        batch: has the candidates, drawn for ``loss``.
        weight: [M] factor on the loss of each prediction; left out: 1.
        loss: the loss section of the job.
    """
    if weight is None:
        weight = states.new_ones(len(states))
    positive = (states * F.embedding(target, items)).sum(1)
    candidates = _rows(items, batch.candidates)
    log_q = batch.candidate_log_q
    if log_q is None:
        partition = _over(_log_sum_exp, states, candidates, None, weight, None, None)
        smoothing = loss.label_smoothing if isinstance(loss, FullSoftmax) else 0.0
        if smoothing:
            positive = (1 - smoothing) * positive + smoothing * (states @ candidates.mean(0))
        return partition - positive @ weight
    hits = _equal(target, batch.candidates)
    if isinstance(loss, GeneralisedBce):
        negatives = _over(_sum_softplus, states, candidates, None, weight, None, hits)
        # α = negatives / (items - 1); an item is expected to be drawn exp(log q) = negatives /
        # items times.
        others = len(log_q) / log_q[0].double().exp() - 1
        rate = (len(log_q) / others).clamp(max=1.0).to(states.dtype)
        beta = rate * (loss.calibration * (1 - 1 / rate) + 1 / rate)
        return (beta * F.softplus(-positive) @ weight + negatives) / (len(log_q) + 1)
    return (
        _over(_log_sum_exp, states, candidates, positive, weight, log_q, hits) - positive @ weight
    )


def _rows(items: Tensor, index: Tensor) -> Tensor:
    """``items`` at ``index``; ``items`` itself if the candidates are all items of the batch."""
    if len(index) == len(items) and bool((index[1:] > index[:-1]).all()):
        return items
    return F.embedding(index, items)


def _equal(target: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """(row, column) of every pair of a target and a candidate that are the same item, in rising
    order of rows; without comparing all pairs."""
    ordered, order = torch.sort(candidates, stable=True)
    first = torch.searchsorted(ordered, target)
    count = torch.searchsorted(ordered, target, right=True) - first
    row = torch.repeat_interleave(count)
    ends = count.cumsum(0)
    within = torch.arange(len(row), device=row.device) - (ends - count)[row]
    return row, order[first[row] + within]


Kernel = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]
"""Logits [m, C] of a chunk and logits of the positives [m] → values [m], and their gradients: the
logits are overwritten by g, and their gradient is g times the second result [m]; the third result
[m] is the gradient of the positives' logits."""


def _log_sum_exp(logits: Tensor, positive: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    top = logits.amax(1) if positive is None else torch.maximum(logits.amax(1), positive)
    total = logits.sub_(top.unsqueeze(1)).exp_().sum(1)
    if positive is None:
        return total.log() + top, 1 / total, None
    own = (positive - top).exp()
    total = total + own
    return total.log() + top, 1 / total, own / total


def _sum_softplus(logits: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    values = F.softplus(logits).sum(1)
    logits.sigmoid_()
    return values, torch.ones_like(values), None


def _over(
    kernel: Kernel,
    states: Tensor,
    candidates: Tensor,
    positive: Tensor | None,
    weight: Tensor,
    log_q: Tensor | None,
    hits: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Σₘ weightₘ · kernel(logits of m over the candidates, positiveₘ).

    Args:
        log_q: [C] subtracted from the logits.
        hits: rows (rising) and columns of the logits to leave out.
    """
    value: Tensor = _Over.apply(  # type: ignore[no-untyped-call]
        states, candidates, positive, weight, log_q, hits, kernel
    )
    return value


class _Over(Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        candidates: Tensor,
        positive: Tensor | None,
        weight: Tensor,
        log_q: Tensor | None,
        hits: tuple[Tensor, Tensor] | None,
        kernel: Kernel,
    ) -> Tensor:
        total = states.new_zeros(())
        of_states, of_candidates = torch.empty_like(states), torch.zeros_like(candidates)
        of_positive = None if positive is None else torch.empty_like(positive)
        rows = max(CHUNK // max(len(candidates), 1), 1)
        buffer = states.new_empty(min(rows, len(states)), len(candidates))
        bounds = torch.tensor([0, rows], device=states.device)
        for first in range(0, len(states), rows):
            part = slice(first, first + rows)
            own_states = states[part]
            logits = torch.mm(own_states, candidates.T, out=buffer[: len(own_states)])
            if log_q is not None:
                logits -= log_q
            if hits is not None:
                begin, end = torch.searchsorted(hits[0], bounds + first).tolist()
                left_out = (hits[0][begin:end] - first, hits[1][begin:end])
                logits.index_put_(left_out, logits.new_tensor(float("-inf")))
            own = None if positive is None else positive[part]
            values, scale, of_own = kernel(logits, own)
            total += values @ weight[part]
            scale = (scale * weight[part]).unsqueeze(1)
            of_states[part] = logits @ candidates * scale
            of_candidates.addmm_(logits.T, own_states * scale)
            if of_positive is not None and of_own is not None:
                of_positive[part] = of_own * weight[part]
        ctx.save_for_backward(of_states, of_candidates, of_positive)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_states, of_candidates, of_positive = ctx.saved_tensors
        of_own = None if of_positive is None else of_positive * grad
        return of_states * grad, of_candidates * grad, of_own, None, None, None, None
