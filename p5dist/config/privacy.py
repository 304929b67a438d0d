"""Differential privacy of a fine-tuning."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from p5dist.config.base import Section


class Privacy(Section):
    """User-level differential privacy of the updates of a fine-tuning (DP-SGD, Abadi et al. 2016,
    with users in place of examples): the gradient of each user is clipped, and noise is added to
    the sum."""

    noise: PositiveFloat | None = None
    """Noise multiplier: standard deviation of the noise in every coordinate, as a multiple of
    ``clip``. Exactly one of noise and epsilon."""
    epsilon: PositiveFloat | None = None
    """The smallest noise is taken with which all epochs of the stage together have this ε."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Smaller than 1 / users. Left out: 1e-5, or 1 / (10 · users) where that is smaller."""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient of a user, over everything that is trained together."""
    key: str
    """Environment variable with the key of the noise: at least 16 bytes, the same on every machine
    of the run, known to nobody who sees the model."""
    table_rows: PositiveInt = 100_000
    """Tables with more rows are frozen: every row gets noise in every step."""

    @model_validator(mode="after")
    def _one(self) -> Privacy:
        if (self.noise is None) == (self.epsilon is None):
            raise ValueError("give exactly one of noise and epsilon")
        return self
