"""Losses over the catalogue, as sums: the caller divides by the global count."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p5dist.batch import Batch


def catalogue_loss(
    states: Tensor, target: Tensor, items: Tensor, batch: Batch, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of M predictions against the candidates of the batch: a scalar sum.

    With all items as candidates it is the exact softmax. With sampled candidates the partition
    function is estimated by importance sampling: the positive counts once, a negative j drawn n
    times from q counts ``exp(logit_j) / (n q_j)``, and negatives equal to the positive are left
    out, which makes the estimate unbiased (Bengio and Senécal 2008).

    Args:
        states: [M, dim]
        target: [M] index into ``items`` of what is right.
        items: [U, dim] vectors of the distinct items of the batch.
        batch: names the candidates.
        weight: [M] factor on the loss of each prediction; left out: 1.
    """
    candidates = items[batch.candidates]
    logits = states @ candidates.T
    if batch.candidate_log_q is None:
        # All items in the order of their ids: the column of a target is its rank among them.
        column = torch.searchsorted(batch.candidates, target)
    else:
        logits = logits - batch.candidate_log_q
        logits = logits.masked_fill(target.unsqueeze(1) == batch.candidates, float("-inf"))
        positive = (states * items[target]).sum(1, keepdim=True)
        logits = torch.cat([positive, logits], dim=1)
        column = torch.zeros_like(target)
    losses = F.cross_entropy(logits, column, reduction="none")
    return losses.sum() if weight is None else losses @ weight
