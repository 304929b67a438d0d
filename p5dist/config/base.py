"""Base class of all sections of the job file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

Column = Literal["timestamp", "event", "rating"]
"""A column of a history, besides user, item and split; named as in :mod:`p5dist.data.columns`."""


class Section(BaseModel):
    """A section of the job file: unknown keys are errors, and sections are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


def _some(files: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not files or (not isinstance(files, str) and not all(files)):
        raise ValueError("name at least one file; '.' is the current folder")
    return files


Files = Annotated[str | tuple[str, ...], AfterValidator(_some)]
"""A path, a glob, a folder, a URL, or a list of these."""
