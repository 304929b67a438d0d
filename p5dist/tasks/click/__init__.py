"""Fine-tuning to clicks, conversions, likes: yes or no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from p5dist.config import RunConfig
from p5dist.config.base import Column, Section
from p5dist.errors import DataError
from p5dist.tasks.click.examples import Examples, Label
from p5dist.tasks.click.negatives import Unclicked
from p5dist.tasks.task import (
    Context,
    Labelled,
    Metric,
    check_columns,
    check_events,
    check_targets,
    target_weights,
)

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.click.evaluation import ClickEvaluation
    from p5dist.tasks.module import TaskModule


class Dlrm(Section):
    """Products of all pairs of feature vectors (DLRM, Naumov et al. 2019)."""

    kind: Literal["dlrm"] = "dlrm"


class Dcn(Section):
    """Cross layers in parallel to a deep network (DCN-V2, Wang et al. 2021)."""

    kind: Literal["dcn"]
    layers: PositiveInt = 3
    """Number of cross layers."""
    rank: PositiveInt | None = None
    """Rank of the matrix of a cross layer; left out: full."""


class Click(Labelled):
    """Predict whether an interaction is a click, a conversion, a like: yes or no; log loss."""

    metrics = {
        "auc": Metric(label="AUC", higher_is_better=True),
        "logloss": Metric(label="log loss", higher_is_better=False),
        "calibration": Metric(label="calibration", higher_is_better=True, compared=False),
    }
    kind: Literal["click"]
    positive: tuple[str, ...] | None = None
    """Events that mean yes; all others mean no."""
    threshold: float | None = None
    """Ratings at or above this value mean yes, lower ratings no; interactions without rating are
    left out."""
    negatives: NonNegativeInt = 0
    """Number of items, drawn from the items that the user has not had, that count as a no beside
    every yes: for logs that hold positives only. Predicted probabilities then refer to this
    mixture of positives and drawn items, not to the log."""
    interaction: Annotated[Dlrm | Dcn, Field(discriminator="kind")] = Dlrm()
    dim: PositiveInt = 32
    """Width of the feature vectors."""
    hidden: tuple[PositiveInt, ...] = (64, 32)
    """Widths of the network on top."""
    state: bool = True
    """Read the state of the encoder before the item: the pre-trained vector of the user."""
    user_table: bool = True
    """Read an embedding row per user and model.user_attributes."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of the feature vectors."""

    @model_validator(mode="after")
    def _label(self) -> Click:
        if self.positive is not None and self.threshold is not None:
            raise ValueError("positive and threshold exclude each other: a label has one source")
        if self.positive is None and self.threshold is None and not self.negatives:
            raise ValueError(
                "no setting defines a no: name the positive events, give a threshold of the "
                "rating, or set negatives"
            )
        return self

    @property
    def columns(self) -> tuple[Column, ...]:
        return ("rating", "event", "timestamp")

    @property
    def reads_whole_users(self) -> bool:
        return self.negatives > 0

    @property
    def reads_states(self) -> bool:
        return self.state

    @property
    def own_tables(self) -> bool:
        return self.user_table

    @property
    def reads_user_attributes(self) -> bool:
        return self.user_table

    def check(self, job: RunConfig, key: str) -> None:
        if self.threshold is not None:
            check_columns(job, key, "rating")
        if self.positive is not None and job.prepare.source.columns.event is None:
            raise ValueError(
                f"{key} names events, but prepare.source.columns.event names no column"
            )

    def check_data(self, context: Context, key: str) -> None:
        targets, manifest = check_targets(context, key), context.manifest
        if self.positive is not None:
            check_events(manifest, self.positive, f"{key}.positive")
        if targets is None:
            return
        yes = no = True
        if self.positive is not None:
            number = sum(targets.by_event.get(event, 0) for event in self.positive)
            yes, no = number > 0, number < targets.total
        elif self.threshold is not None:
            low, high = manifest.rating_range or (self.threshold, self.threshold)
            yes = targets.rated > 0 and high >= self.threshold
            no = low < self.threshold
        if not yes or not (no or self.negatives):
            setting = "threshold" if self.positive is None else "positive"
            raise DataError(
                f"nothing to tell apart: {'every' if yes else 'no'} example is a yes",
                where=f"{key}.{setting}", value=getattr(self, setting),
                rule="training needs examples of yes and of no, after another interaction of the "
                f"same history; by event there are {targets.by_event or 'none'}, ratings: "
                f"{manifest.rating_range}",
                fix=f"correct {setting}" + (
                    ", or draw the no from other items, as in negatives: 4" if yes else ""
                ),
            )  # fmt: skip

    def batch_fields(self, context: Context) -> Examples:
        return Examples(
            Label(self, context.manifest),
            self.drawn(context, context.job.training_seed),
            target_weights(context.manifest, labelled=self.labelled(context)),
        )

    def drawn(self, context: Context, seed: int) -> Unclicked | None:
        """The sampler of the negatives; None without negatives."""
        return Unclicked(self.negatives, context.catalogue, seed) if self.negatives else None

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.click.module import ClickModule

        return ClickModule(
            self,
            context.name,
            context.manifest,
            dim=context.job.model.dim,
            model=context.job.model,
            device=device,
        )

    def evaluation(self, context: Context) -> ClickEvaluation:
        from p5dist.tasks.click.evaluation import ClickEvaluation

        return ClickEvaluation(self, context)
