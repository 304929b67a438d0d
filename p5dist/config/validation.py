"""The ``validation`` section of a training stage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from p5dist.config.base import Section

VALIDATIONS = 20
"""In a stage that does not say how often it is validated."""
RANKING_METRIC = re.compile(r"^(ndcg|hr|mrr)@[1-9][0-9]*$")


class Validation(Section):
    """Exact ranking (or another metric of a task) on the validation split during training. The
    checkpoint with the best score is kept, and later stages use it. A stage that starts from other
    weights, or whose task starts from a base, is validated before its first step too, so that it
    never ends with a model worse than the one it began with."""

    every: PositiveInt | None = None
    """Steps between validations; the last step always has one. Left out: 20 validations in a
    stage; none in data without a validation split, and in a stage with privacy."""
    users: PositiveInt = 20_000
    """Approximate number of users in a validation, always the same users."""
    metric: str | None = None
    """ndcg@K, hr@K or mrr@K if the stage ranks items; or a metric of a task, such as rmse, mae or
    auc, with several tasks NAME/rmse. Left out: ndcg@10 if the stage ranks items, else the first
    metric of its task."""
    mask_seen: bool | None = None
    """As in evaluate, which decides if this is left out."""
    targets: Literal["all", "new"] | None = None
    """As in evaluate, which decides if this is left out."""
    events: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """As in evaluate, which decides if this is left out."""
    patience: PositiveInt | None = 5
    """Early stopping: training ends after this many validations in a row without a new best score;
    null: no early stopping."""


@dataclass(frozen=True)
class Validating:
    """The validations of a stage, with what the data and the section ``evaluate`` decide."""

    every: int
    users: int
    metric: str
    mask_seen: bool
    targets: Literal["all", "new"]
    events: tuple[str, ...] | None
    patience: int | None
    asked: bool
    """Whether the job says when: then there must be something to validate on."""
