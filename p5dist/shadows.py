"""``p5dist privacy RUN --shadows N``: does the training of a job betray who took part in it?

Shadow runs train the job on random halves of the users; 2k and 2k + 1 are the two halves of one
draw. Each of them is attacked in turn, with the others as what an attacker could train (likelihood
ratio attack, LiRA, Carlini et al. 2022): for a user, the runs with the user and the runs without
the user say how sure the model would be of the user's interactions in either case, and the
likelihood ratio of the two says which case the attacked run is.

Members and others are random halves of the same users, so the AUC of a training that remembers
nobody is 0.5, whatever is hard to predict. Both normal distributions have one variance, since a few
shadows do not tell the variance of single users; the run with the other half of the same draw is
left out, so that each user has as many runs with as without it.

A shadow run has half of the users, so it remembers them rather better than the run itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from p5dist import pipeline
from p5dist.config import RunConfig
from p5dist.data.jagged import Bools, Floats
from p5dist.data.labelled import ShadowUsers
from p5dist.errors import ConfigError
from p5dist.inference.confidence import confidences
from p5dist.storage import RunFolder

_LEAST = 4
_RESAMPLES = 1000


def check_number(number: int) -> None:
    """Raise a ConfigError unless so many shadows can be attacked."""
    if number < _LEAST or number % 2:
        raise ConfigError(
            "not a number of shadow runs", where="--shadows", value=number,
            rule=f"an even number from {_LEAST} on: pairs of halves, one of which is attacked",
            fix="for example --shadows 8",
        )  # fmt: skip


def shadow_job(job: RunConfig, number: int) -> RunConfig:
    """The job of shadow run ``number``, on the prepared data of ``job``."""
    return job.model_copy(
        update={
            "name": f"{job.name}-shadow-{number}",
            "data_of": job.data_of or job.name,
            "feed": job.feed.model_copy(update={"shadow": number}),
            "evaluate": None,
            "recommend": None,
            "report": None,
        }
    )


def train(job: RunConfig, stage: str, number: int) -> None:
    """Train ``number`` shadow runs up to ``stage``; those that are complete are skipped."""
    stages = list(job.trainings())
    for k in range(number):
        pipeline.run(shadow_job(job, k), stages[: stages.index(stage) + 1])


def measure(job: RunConfig, stage: str, number: int, *, users: int = 5000) -> dict[str, Any]:
    """Attack trained shadow runs.

    Args:
        users: about so many are asked about, chosen by a hash.

    Returns:
        ``auc``, ``low`` and ``high`` of the likelihood ratio, the same of the confidence alone
        under ``uncalibrated``, and the numbers of ``shadows`` and ``users``.
    """
    check_number(number)
    scores, members = [], []
    for k in range(number):
        one = shadow_job(job, k)
        user, mean = confidences(one, RunFolder.of_job(one), stage, users=users)
        scores.append(mean)
        members.append(ShadowUsers(k, job.seed)(user))
    sure, inside = np.stack(scores), np.stack(members)
    ratios = np.stack([likelihood_ratio(sure, inside, k) for k in range(number)])
    return {
        "stage": stage, "shadows": number, "users": sure.shape[1],
        **_measured(ratios, inside, job.seed),
        "uncalibrated": _measured(sure, inside, job.seed),
    }  # fmt: skip


def likelihood_ratio(sure: Floats, inside: Bools, attacked: int) -> Floats:
    """[U] log of the likelihood ratio of two normal distributions of one variance (up to a common
    factor) for each user to be a member of the attacked run.

    Args:
        sure: [N, U] confidence of each run for each user.
        inside: [N, U] whether the user is a member of the run.
    """
    others = [k for k in range(len(sure)) if k // 2 != attacked // 2]
    known, member = sure[others], inside[others]
    with_user = (known * member).sum(0) / member.sum(0)
    without = (known * ~member).sum(0) / (~member).sum(0)
    ratio: Floats = (with_user - without) * (sure[attacked] - (with_user + without) / 2)
    return ratio


def weighted_auc(score: Floats, member: Bools, weight: Floats) -> float:
    """Probability that a member has a higher score than another user, ties counting half.

    Args:
        weight: [U] how often each user counts.
    """
    values, place = np.unique(score, return_inverse=True)
    inside = np.bincount(place, weight * member, len(values))
    outside = np.bincount(place, weight * ~member, len(values))
    lower = np.cumsum(outside) - outside
    return float((inside * (lower + outside / 2)).sum() / (inside.sum() * outside.sum()))


def _measured(scores: Floats, inside: Bools, seed: int) -> dict[str, float]:
    """Mean AUC over the attacked runs, with a 95 % percentile interval over resampled users."""
    users = scores.shape[1]
    draw = np.random.default_rng(seed)
    once = np.ones(users)
    drawn = [
        _mean_auc(scores, inside, draw.multinomial(users, once / users).astype(np.float64))
        for _ in range(_RESAMPLES // len(scores))
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"auc": _mean_auc(scores, inside, once), "low": float(low), "high": float(high)}


def _mean_auc(scores: Floats, inside: Bools, weight: Floats) -> float:
    both: Sequence[tuple[Floats, Bools]] = list(zip(scores, inside, strict=True))
    return float(np.mean([weighted_auc(score, member, weight) for score, member in both]))
