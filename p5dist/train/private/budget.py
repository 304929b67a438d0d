"""What a private fine-tuning spends: noise ↔ ε.

A stage trains on every history exactly once per epoch, in an order that does not depend on what
the histories contain. With one history per user a user takes part in one step of an epoch, so an
epoch is one Gaussian mechanism over disjoint users (parallel composition), and E epochs are E
mechanisms one after the other. No amplification by subsampling is claimed: the order is known.

E Gaussian mechanisms with noise multiplier z, each chosen after the results of those before it, are
together exactly as private as one with z / √E (Dong, Roth and Su 2019), whose ε and δ are known in
closed form (Balle and Wang 2018). An epoch that was begun counts as a whole one.

Neighbours are two logs of which one lacks all interactions of one user: the user's row stays, empty
(zero-out, Kairouz et al. 2021), since the order depends on the number of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from p5dist.config import RunConfig
from p5dist.config.run import key_of as key_path
from p5dist.config.train import Finetune
from p5dist.data.manifest import Manifest
from p5dist.environment.extras import need
from p5dist.environment.keys import key_of
from p5dist.errors import ConfigError
from p5dist.feed.order import LaneOrder, total_steps

_ROUND_UP = 1 + 1e-9
"""Noise is solved for to 1e-12."""

COVERS = "the updates of this stage"
NOT_COVERED = (
    "vocabulary, counts and means of the log", "item-to-item counts and their share",
    "losses and validations that are shown, and the checkpoint that they choose",
    "the stage that this one starts from", "other runs and stages, whose ε adds up",
)  # fmt: skip
"""See docs/tutorials/private-fine-tuning.md."""


@dataclass(frozen=True)
class Budget:
    """The noise of a stage and what it is worth."""

    noise: float
    """z: standard deviation of the noise, as a multiple of ``clip``."""
    clip: float
    delta: float
    users: int
    epochs: int
    """Planned, the last perhaps begun only."""

    def epsilon(self, epochs: int) -> float:
        """ε at :attr:`delta` after so many epochs."""
        if not epochs:
            return 0.0
        return float(_accounting().get_epsilon_gaussian(self.noise / math.sqrt(epochs), self.delta))

    def spent(self, epochs: int) -> dict[str, Any]:
        """For results: numbers by name, what ε covers and what it does not cover."""
        return {
            "epsilon": self.epsilon(epochs), "delta": self.delta, "noise": self.noise,
            "clip": self.clip, "epochs": epochs, "users": self.users,
            "unit": "a user: all interactions", "covers": COVERS, "not_covered": list(NOT_COVERED),
        }  # fmt: skip


def budget_of(job: RunConfig, stage: str, manifest: Manifest, order: LaneOrder) -> Budget | None:
    """The budget of a training stage; None for a stage without privacy.

    Args:
        order: of the stage.

    Raises:
        ConfigError: a user may take part in several steps of an epoch; δ is too large; the package
            that computes ε is not installed.
    """
    training = job.trainings()[stage]
    if not isinstance(training, Finetune) or training.privacy is None:
        return None
    config, where = training.privacy, f"{key_path(stage)}.privacy"
    if manifest.histories != manifest.users:
        raise ConfigError(
            "a user may have several histories, and take part in several steps of an epoch",
            where=where,
            value=f"{manifest.histories:,} histories of {manifest.users:,} users",
            rule="privacy protects users whose interactions are one history each",
            fix="prepare without prepare.session_gap, and longer histories with prepare.max_length "
            "and prepare.longer: last",
        )  # fmt: skip
    if config.delta is not None and config.delta >= 1 / manifest.users:
        raise ConfigError(
            "δ allows to publish whole users", where=f"{where}.delta", value=config.delta,
            rule=f"smaller than 1 / users = 1 / {manifest.users:,}",
            fix="leave it out, or take a tenth of 1 / users or less",
        )  # fmt: skip
    delta = default_delta(manifest.users) if config.delta is None else config.delta
    epochs = begun_epochs(order, total_steps(training, order))
    accounting, noise = _accounting(where), config.noise
    if noise is None:
        one = float(accounting.get_sigma_gaussian(config.epsilon, delta))
        noise = one * math.sqrt(epochs) * _ROUND_UP
    return Budget(noise, config.clip, delta, manifest.users, epochs)


def secret_of(training: Finetune, stage: str) -> bytes:
    """The key of the noise.

    Raises:
        ConfigError: it is not set, or too short.
    """
    assert training.privacy is not None
    return key_of(training.privacy.key, f"{key_path(stage)}.privacy.key", "the noise")


def default_delta(users: int) -> float:
    """δ where the job names none."""
    return min(1e-5, 0.1 / max(users, 1))


def begun_epochs(order: LaneOrder, steps: int) -> int:
    """Epochs that the first ``steps`` steps begin."""
    return order.locate(steps - 1)[0] + 1 if steps else 0


def _accounting(where: str = "finetune.<task>.privacy") -> Any:
    return need("dp_accounting", "private", where)
