"""The ``ranking``, ``evaluate``, ``recommend`` and ``report`` sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from p5dist.config.base import Section


class Ranking(Section):
    """How evaluate and recommend rank items; validation during training ignores the counts."""

    item_to_item: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the probability of the next item that comes from counts of which items follow which
    in training, the rest comes from the model (as in kNN-LM, Khandelwal et al. 2020). Choose it on
    validation: p5dist evaluate JOB.yaml evaluate.split=validation ranking.item_to_item=0.3."""


class Evaluate(Section):
    """Exact ranking over the whole catalogue, and the metrics of the tasks."""

    split: Literal["validation", "test"] = "test"
    k: tuple[PositiveInt, ...] = (1, 5, 10, 20)
    users: PositiveInt | None = None
    """About how many users are evaluated, the same every time (by a hash of seed and user); left
    out: all."""
    mask_seen: bool = True
    """Items that the user has had before cannot be ranked: a target among them, a repeat, counts
    as a miss. false: nothing is left out for anybody."""
    targets: Literal["all", "new"] = "all"
    """new: repeats, targets that the user has had before, are left out and counted."""
    batch_size: PositiveInt = 1024
    """Histories scored at once by one actor."""
    ranking_from: str | None = None
    """Stage whose model ranks; left out: the next_item fine-tuning if the job has one, else
    pretrain."""
    bootstrap: NonNegativeInt = 1000
    """Resamples of the users for the 95 % confidence intervals; 0: none."""


class Recommend(Section):
    """Lists for all users."""

    k: PositiveInt = 20
    mask_seen: bool = True
    batch_size: PositiveInt = 1024
    ranking_from: str | None = None
    """As in evaluate."""


class Report(Section):
    """One HTML page about the run."""

    users: NonNegativeInt = 5
    """Users shown with their history and their list."""
