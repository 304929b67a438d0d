"""Base class of all sections of the job file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Column = Literal["timestamp", "event", "rating"]
"""A column of a history, besides user, item and split; named as in :mod:`p5dist.data.columns`."""


class Section(BaseModel):
    """A section of the job file: unknown keys are errors, and sections are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )
