"""How sure a trained model is of what each user had in training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from p5dist.config import RunConfig
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import Stream, uniform
from p5dist.inference.scorer import Scorer, load_scorer
from p5dist.inference.scoring import all_portions
from p5dist.storage import RunFolder

_AT_ONCE = 512
_HELD = 1 << 30  # bytes of item vectors
_SURE = -1e-7  # largest log p: float32 rounds higher ones to 1


def confidences(
    job: RunConfig, folder: RunFolder, stage: str, *, users: int, last: int = 8
) -> tuple[Ints, Floats]:
    """For each of about ``users`` users, chosen by a hash, the mean of log p / (1 - p) over the
    last training interactions, p being the softmax over the catalogue after the interactions
    before.

    Args:
        stage: a stage that ranks.
        last: interactions of a user, at most.

    Returns:
        Rising user ids [U], and means [U].
    """
    manifest = Manifest.load(folder.prepare)
    scorer = load_scorer(job, folder, stage)
    reader, portions = all_portions(job, folder, manifest)
    share = users / max(manifest.users, 1)
    ids, means = [np.zeros(0, np.int64)], [np.zeros(0)]
    for portion in portions:
        everyone = reader.users(portion).histories
        chosen = uniform(job.seed, Stream.EVALUATED_USERS, everyone.user) < share
        train = everyone.take(np.flatnonzero(chosen)).training()
        train = train.take(np.flatnonzero(train.lengths > 1))
        ids.append(train.user)
        means.append(_of_users(scorer, train, last))
    user, mean = np.concatenate(ids), np.concatenate(means)
    order = np.argsort(user, kind="stable")
    return user[order], mean[order]


def _of_users(scorer: Scorer, train: Histories, last: int) -> Floats:
    """[B]"""
    number = np.minimum(train.lengths - 1, last)
    owner = np.repeat(np.arange(len(train)), number)
    back = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number) + 1
    target = train.item[train.offsets[1:][owner] - back]
    before = train.take(owner, np.zeros_like(owner), train.lengths[owner] - back)
    found = [np.zeros(0)]
    for begin in range(0, len(owner), _AT_ONCE):
        end = min(begin + _AT_ONCE, len(owner))
        found.append(_log_odds(scorer, before.between(begin, end), target[begin:end]))
    sums = np.bincount(owner, np.concatenate(found), len(train))
    means: Floats = sums / np.maximum(number, 1)
    return means


@torch.no_grad()
def _log_odds(scorer: Scorer, histories: Histories, target: Ints) -> Floats:
    """[B] log p / (1 - p) of item ids ``target`` [B] after ``histories`` [B]."""
    vectors = scorer.user_vectors(histories)
    wanted = torch.from_numpy(target).to(vectors.device)
    known = torch.zeros(scorer.catalogue.largest + 1, dtype=torch.bool)
    known[torch.from_numpy(scorer.catalogue.ids)] = True
    total = vectors.new_full((len(vectors),), -torch.inf, dtype=torch.float64)
    own = torch.zeros_like(total)
    for first, items in scorer.items(_HELD):
        logits = (vectors @ items.to(vectors.device).T).double()
        other = ~known[first : first + len(items)].to(logits.device)
        total = torch.logaddexp(total, logits.masked_fill(other, -torch.inf).logsumexp(1))
        own += _at(logits, wanted - first)
    log_p = (own - total).clamp(max=_SURE)
    odds: Floats = (log_p - torch.log(-torch.expm1(log_p))).cpu().numpy()
    return odds


def _at(logits: Tensor, column: Tensor) -> Tensor:
    """[B] the logit of each row at its column; zero where the column is in another block."""
    here = (column >= 0) & (column < logits.shape[1])
    place = column.clamp(0, logits.shape[1] - 1).unsqueeze(1)
    return logits.gather(1, place).squeeze(1) * here
