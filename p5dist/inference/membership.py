"""How much a model remembers of the people it was trained on: a membership-inference attack.

The attacker has the history of a person and asks the model for the rank of a further interaction:
one that the model was trained to predict after this history (a member), or one that was held out
(no member). Members that rank better give themselves away. The area under the ROC curve (AUC) is
the probability that a member ranks before one that is no member, ties counting half (Shokri et al.
2017; Yeom et al. 2018, with ranks instead of losses): 0.5 for a model that remembers nothing of
single people, 1 for one that remembers all.

A held-out interaction comes later and is harder to predict for any model. How much of the AUC comes
from that, popularity says, which remembers nobody: ``control`` is the AUC of its ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import Stream, uniform
from p5dist.environment.console import progress
from p5dist.errors import DataError
from p5dist.inference.rankers import MODEL, Rankers, Request
from p5dist.inference.scorer import load_scorer
from p5dist.inference.scoring import all_portions
from p5dist.ranking.popularity import Popularity
from p5dist.ranking.topk import MISSED
from p5dist.storage import RunFolder

_RESAMPLES = 1000
_AT_ONCE = 512


@dataclass(frozen=True)
class Pairs:
    """Ranks [n] of a member and of an interaction that is none, for each of n users."""

    member: Ints
    other: Ints

    def auc(self) -> float:
        """Probability that a member ranks before one that is no member."""
        return float(_auc(self.member, self.other, np.ones(len(self.member))))

    def interval(self, seed: int) -> tuple[float, float]:
        """95 % percentile interval over resampled users."""
        draw, n = np.random.default_rng(seed), len(self.member)
        found = [
            _auc(self.member, self.other, draw.multinomial(n, np.full(n, 1 / n)))
            for _ in range(_RESAMPLES)
        ]
        low, high = np.percentile(found, [2.5, 97.5])
        return float(low), float(high)


def _auc(member: Ints, other: Ints, times: Floats | Ints) -> float:
    """Users counted ``times`` [n] each."""
    ranks, place = np.unique(np.concatenate([member, other]), return_inverse=True)
    of_member = np.bincount(place[: len(member)], times, len(ranks))
    of_other = np.bincount(place[len(member) :], times, len(ranks))
    later = np.cumsum(of_other[::-1])[::-1] - of_other
    return float((of_member * (later + of_other / 2)).sum() / times.sum() ** 2)


def attack(job: RunConfig, folder: RunFolder, stage: str, *, users: int = 5000) -> dict[str, Any]:
    """Attack the model of a training stage.

    Args:
        users: about so many are asked about, chosen by a hash.

    Returns:
        ``auc``, ``low`` and ``high`` of the model, the same of popularity under ``control``, and
        the number of ``users``.

    Raises:
        DataError: no user has two training interactions and one that was held out.
    """
    manifest = Manifest.load(folder.prepare)
    scorer = load_scorer(job, folder, stage)
    counts = (folder.prepare / "vocabulary/item.parquet").read_table([c.COUNT])[c.COUNT]
    control = Popularity(counts.to_numpy(), scorer.catalogue)
    rankers = Rankers(job.ranking, scorer, None, [control])
    reader, portions = all_portions(job, folder, manifest)
    share = users / max(manifest.users, 1)
    ranks: dict[str, list[Ints]] = {MODEL: [], control.name: []}
    with progress("histories") as bar:
        task = bar.add_task("attack", total=sum(portion.rows for portion in portions), note="")
        for portion in portions:
            everyone = reader.users(portion).histories
            chosen = uniform(job.seed, Stream.EVALUATED_USERS, everyone.user) < share
            asked = _asked(everyone.take(np.flatnonzero(chosen)))
            for begin in range(0, len(asked), _AT_ONCE):
                for name, own in _ranks(rankers, asked.between(begin, begin + _AT_ONCE)).items():
                    ranks[name].append(own)
            bar.update(task, advance=portion.rows)
    model, popularity = (
        np.concatenate([np.zeros((0, 2), np.int64), *found]) for found in ranks.values()
    )
    known = (model != MISSED).all(axis=1)  # items without a vector have no rank
    if not known.any():
        raise DataError(
            "nobody to ask about", where=str(folder.prepare),
            rule="users with two training interactions and one that was held out",
            fix="prepare the data with a split that holds out interactions",
        )  # fmt: skip
    of_model, of_popularity = (Pairs(*found[known].T) for found in (model, popularity))
    return {"stage": stage, "users": int(known.sum()), **_measured(of_model, job.seed),
            "control": _measured(of_popularity, job.seed)}  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """Histories [B] without their last training interaction, that interaction, and the first one
    that was held out."""

    histories: Histories
    member: Ints
    other: Ints

    def __len__(self) -> int:
        return len(self.member)

    def between(self, begin: int, end: int) -> _Asked:
        end = min(end, len(self))
        part = slice(begin, end)
        return _Asked(self.histories.between(begin, end), self.member[part], self.other[part])


def _asked(everyone: Histories) -> _Asked:
    held_out = everyone.where(everyone.split != c.TRAIN)
    train = everyone.training()
    good = np.flatnonzero((train.lengths > 1) & (held_out.lengths > 0))
    train, held_out = train.take(good), held_out.take(good)
    member = train.item[train.offsets[1:] - 1]
    other = held_out.item[held_out.offsets[:-1]]
    before = train.take(np.arange(len(train)), np.zeros(len(train), np.int64), train.lengths - 1)
    return _Asked(before, member, other)


def _ranks(rankers: Rankers, asked: _Asked) -> dict[str, Ints]:
    """By ranker [B, 2] the ranks of the member and of the other interaction."""
    owner = np.repeat(np.arange(len(asked), dtype=np.int64), 2)
    target = np.stack([asked.member, asked.other], axis=1).reshape(-1)
    (found,) = rankers([Request(asked.histories, None, owner, target)], 1)
    return {name: np.asarray(ranks).reshape(-1, 2) for name, (ranks, _) in found.items()}


def _measured(pairs: Pairs, seed: int) -> dict[str, float]:
    low, high = pairs.interval(seed)
    return {"auc": pairs.auc(), "low": low, "high": high}
