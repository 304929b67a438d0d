"""Losses over the catalogue, as sums: the caller divides by the global count.

Logits exist for one chunk at a time, and the forward pass overwrites them with their gradient:
memory is bounded by the chunk, whatever the size of batch and catalogue. If the catalogue is so
large that a chunk has room for a few predictions only, it has hundreds of predictions and takes the
candidates block by block, and the logits of a softmax are computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function

from p5dist.config.losses import FullSoftmax, GeneralisedBce, Loss
from p5dist.data.batch import Batch
from p5dist.models.precision import add_product, as_written, factor_type, is_half, product

CHUNK = {"cpu": 1 << 20}
"""Logits held at once, by type of device: 4 MB in float32, which caches hold."""
_CHUNK_ON_GPU = 1 << 26
"""256 MB, which keep a GPU busy."""
_FEW, _PREDICTIONS = 64, 256
"""If the logits of fewer predictions than the first number fit with all candidates, a chunk has the
second number of predictions and a block of the candidates. (On a core, products of so few rows with
all candidates take longer than computing the logits twice.)"""


def chunk_shape(predictions: int, candidates: int, device: str) -> tuple[int, int]:
    """Largest number of predictions and of candidates whose logits exist at once."""
    size, candidates = CHUNK.get(device, _CHUNK_ON_GPU), max(candidates, 1)
    fitting = size // candidates
    at_once = min(fitting if fitting >= _FEW else _PREDICTIONS, max(predictions, 1))
    return at_once, min(max(size // at_once, 1), candidates)


def catalogue_loss(
    states: Tensor,
    target: Tensor,
    items: Tensor,
    batch: Batch,
    made: Mapping[str, Any],
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
        made: batch fields of the predictions, see :mod:`p5dist.tasks.predictions`: ``weight`` [M],
            a factor on each loss, and ``hits`` and ``first_hit`` if candidates are drawn.
        loss: the loss section of the job.
    """
    kind = factor_type(states)
    states, items = states.to(kind).to(states.dtype), items.to(kind).to(items.dtype)
    with as_written(states):
        return _catalogue_loss(states, target, items, batch, made, loss, kind)


def _catalogue_loss(
    states: Tensor,
    target: Tensor,
    items: Tensor,
    batch: Batch,
    made: Mapping[str, Any],
    loss: Loss,
    kind: torch.dtype,
) -> Tensor:
    """See :func:`catalogue_loss`; states and items have values of the type ``kind``."""
    weight = made.get("weight")
    if weight is None:
        weight = states.new_ones(len(states))
    positive = (states * F.embedding(target, items)).sum(1)
    candidates = items
    if not batch.candidates_are_items:
        candidates = F.embedding(batch.candidates, items)
    log_q = batch.candidate_log_q
    if log_q is None:
        partition = _over(LOG_SUM_EXP, states, candidates, None, weight, None, None, kind)
        smoothing = loss.label_smoothing if isinstance(loss, FullSoftmax) else 0.0
        if smoothing:
            positive = (1 - smoothing) * positive + smoothing * (states @ candidates.mean(0))
        return partition - positive @ weight
    row, column = made["hits"]
    hits = Hits(row, column, made["first_hit"])
    if isinstance(loss, GeneralisedBce):
        negatives = _over(SUM_SOFTPLUS, states, candidates, None, weight, None, hits, kind)
        # α = negatives / (items - 1); an item is expected to be drawn exp(log q) = negatives /
        # items times.
        others = len(log_q) / log_q[0].double().exp() - 1
        rate = (len(log_q) / others).clamp(max=1.0).to(states.dtype)
        beta = rate * (loss.calibration * (1 - 1 / rate) + 1 / rate)
        return (beta * F.softplus(-positive) @ weight + negatives) / (len(log_q) + 1)
    sums = _over(LOG_SUM_EXP, states, candidates, positive, weight, log_q, hits, kind)
    return sums - positive @ weight


def sum_softplus(states: Tensor, candidates: Tensor, weight: Tensor) -> Tensor:
    """Σₘ weightₘ Σ꜀ log(1 + exp(statesₘ · candidates꜀)): a scalar.

    Args:
        states: [M, dim]
        candidates: [C, dim]
        weight: [M]
    """
    kind = factor_type(states)
    with as_written(states):
        return _over(SUM_SOFTPLUS, states, candidates, None, weight, None, None, kind)


class Hits(NamedTuple):
    """Pairs of a prediction's target and a candidate that are the same item."""

    row: Tensor
    """[H] index of the prediction, rising"""
    column: Tensor
    """[H] index of the candidate"""
    first: npt.NDArray[np.int64]
    """[M + 1] the hits of prediction m are ``first[m]`` … ``first[m + 1] - 1``"""


@dataclass(frozen=True)
class Kernel:
    """A function of the logits of a prediction over all candidates."""

    values: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]
    """Logits [m, C] and logits of the positives [m] → values [m], and their gradients: the logits
    are overwritten by g, and their gradient is g times the second result [m]; the third result [m]
    is the gradient of the positives' logits."""
    is_sum: bool
    """The values are sums over the candidates; else they are log Σ exp."""


def _log_sum_exp(logits: Tensor, positive: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    top = logits.amax(1).clamp(min=torch.finfo(logits.dtype).min)  # finite if all are left out
    top = top if positive is None else torch.maximum(top, positive)
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


LOG_SUM_EXP = Kernel(_log_sum_exp, is_sum=False)
SUM_SOFTPLUS = Kernel(_sum_softplus, is_sum=True)


def _over(
    kernel: Kernel,
    states: Tensor,
    candidates: Tensor,
    positive: Tensor | None,
    weight: Tensor,
    log_q: Tensor | None,
    hits: Hits | None,
    kind: torch.dtype,
) -> Tensor:
    """Σₘ weightₘ · kernel(logits of m over the candidates, positiveₘ).

    Args:
        log_q: [C] subtracted from the logits.
        hits: the logits to leave out.
        kind: type of the factors of products.
    """
    value: Tensor = _Over.apply(  # type: ignore[no-untyped-call]
        states, candidates, positive, weight, log_q, hits, kernel, kind
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
        hits: Hits | None,
        kernel: Kernel,
        kind: torch.dtype,
    ) -> Tensor:
        total = states.new_zeros(())
        of_states, of_candidates = torch.zeros_like(states), torch.zeros_like(candidates)
        of_positive = None if positive is None else torch.empty_like(positive)
        logits_of = _Logits(states.to(kind), candidates.to(kind), log_q, hits)
        for part in logits_of.parts:
            own, scale = None if positive is None else positive[part], weight[part]
            blocks, norm = logits_of.blocks(part), None
            if len(logits_of.columns) > 1 and not kernel.is_sum:
                norm = _norm(blocks, own)
                total += norm @ weight[part]
                blocks = logits_of.blocks(part)
                if of_positive is not None and own is not None:
                    of_positive[part] = (own - norm).exp() * weight[part]
            for columns, logits in blocks:
                if norm is not None:
                    logits.sub_(norm.unsqueeze(1)).exp_()
                else:
                    values, factor, of_own = kernel.values(logits, own)
                    total += values @ weight[part]
                    scale = factor * weight[part]
                    if of_positive is not None and of_own is not None:
                        of_positive[part] = of_own * weight[part]
                logits = logits.to(kind)
                own_rows = logits_of.candidates[columns]
                of_states[part] += product(logits, own_rows) * scale.unsqueeze(1)
                scaled = (states[part] * scale.unsqueeze(1)).to(kind)
                add_product(of_candidates[columns], logits.T, scaled)
        ctx.save_for_backward(of_states, of_candidates, of_positive)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_states, of_candidates, of_positive = ctx.saved_tensors
        of_own = None if of_positive is None else of_positive * grad
        return of_states * grad, of_candidates * grad, of_own, *[None] * 5


def _norm(blocks: Iterator[tuple[slice, Tensor]], positive: Tensor | None) -> Tensor:
    """[m] log Σ exp over all blocks and the positive."""
    parts = [_log_sum_exp(logits, None)[0] for _, logits in blocks]
    return torch.logsumexp(torch.stack(parts if positive is None else [positive, *parts]), 0)


class _Logits:
    """The logits of some predictions, chunk by chunk; each chunk overwrites the one before."""

    def __init__(
        self,
        states: Tensor,
        candidates: Tensor,
        log_q: Tensor | None,
        hits: Hits | None,
    ) -> None:
        self._states, self.candidates, self._log_q, self._hits = states, candidates, log_q, hits
        rows, width = chunk_shape(len(states), len(candidates), states.device.type)
        self._buffer = None if is_half(states.dtype) else states.new_empty(rows * width)
        self.parts = [slice(first, first + rows) for first in range(0, len(states), rows)]
        self.columns = [slice(first, first + width) for first in range(0, len(candidates), width)]

    def blocks(self, part: slice) -> Iterator[tuple[slice, Tensor]]:
        """(block of the candidates, logits [m, c]) of the predictions ``part``."""
        states = self._states[part]
        hits = None if self._hits is None else _hits_of(part, self._hits)
        for columns in self.columns:
            candidates = self.candidates[columns]
            shape = len(states), len(candidates)
            room = self._buffer
            room = room if room is None else room[: shape[0] * shape[1]].view(shape)
            logits = product(states, candidates.T, out=room)
            if self._log_q is not None:
                logits -= self._log_q[columns]
            if hits is not None:
                row, column = hits
                if len(self.columns) > 1:
                    here = (column >= columns.start) & (column < columns.stop)
                    row, column = row[here], column[here] - columns.start
                logits.view(-1).index_fill_(0, row * shape[1] + column, -torch.inf)
            yield columns, logits


def _hits_of(part: slice, hits: Hits) -> tuple[Tensor, Tensor]:
    """Rows and columns of the hits of the predictions ``part``."""
    own = slice(int(hits.first[part.start]), int(hits.first[min(part.stop, len(hits.first) - 1)]))
    return hits.row[own] - part.start, hits.column[own]
