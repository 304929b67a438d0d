"""Fine-tuning to ratings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt

from p5dist.config import RunConfig
from p5dist.data.jagged import Array, Ints
from p5dist.data.manifest import Manifest
from p5dist.errors import DataError
from p5dist.feed.batch_fields import Collated
from p5dist.ranking.baselines import Biases
from p5dist.tasks.predictions import Predictions, TargetWeights, before_others
from p5dist.tasks.rating.biases import make_biases, read_biases
from p5dist.tasks.task import (
    Context,
    Labelled,
    Metric,
    check_columns,
    check_targets,
    target_weights,
)

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule
    from p5dist.tasks.rating.evaluation import RatingEvaluation


class Rating(Labelled):
    """Predict the rating of the next interaction; squared error."""

    metrics = {
        "rmse": Metric(label="RMSE", higher_is_better=False),
        "mae": Metric(label="MAE", higher_is_better=False),
    }
    kind: Literal["rating"]
    score: Literal["dot", "mlp", "both"] = "both"
    """The base plus, for dot: biases of user and item and the product of their vectors; for mlp: a
    network over both vectors; for both: the sum of dot and mlp."""
    base: Literal["auto", "biases", "mean"] = "auto"
    """mean: the mean rating. biases: of user and item, fitted on training ratings by alternating
    ridge regression (Koren 2008); the model learns what is left and begins at zero. Without a
    validation that ends training early it overfits: RMSE 0.925 instead of 0.913 on MovieLens-100K
    u1. auto: biases where the data has a validation split, else the mean."""
    user_table: bool = True
    """Give every user an embedding row in addition to the state of the encoder; needed for a bias
    of users whose history says little."""
    user_dim: PositiveInt = 32
    """Width of the vector of a user."""
    history: Literal["shuffled", "time"] = "shuffled"
    """shuffled: the encoder sees other interactions of the user in random order, earlier and later
    ones; time: the interactions before the rated one. Ratings depend little on the order, and the
    targets of a random test split lie in the middle of the history."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout of states, item and user vectors before the prediction."""

    @property
    def shuffled(self) -> bool:
        return self.history == "shuffled"

    @property
    def own_tables(self) -> bool:
        return self.user_table

    @property
    def reads_user_attributes(self) -> bool:
        return self.user_table

    @property
    def not_private(self) -> str | None:
        if self.base == "mean":
            return None
        return "biases, the base, are fitted on the ratings of all users: set base to mean"

    def check(self, job: RunConfig, key: str) -> None:
        check_columns(job, key, "rating")

    def check_data(self, context: Context, key: str) -> None:
        targets = check_targets(context, key)
        if targets is not None and not targets.rated:
            raise DataError(
                "nothing to predict: no training interaction after another one has a rating",
                where=key, value="0 ratings", rule="the task learns from ratings",
                fix="correct prepare.source.columns.rating, or prepare.clean.rating_range",
            )  # fmt: skip

    @property
    def has_base(self) -> bool:
        return self.base != "mean"

    def fits_biases(self, manifest: Manifest) -> bool:
        """Whether the base are fitted biases."""
        if self.base != "auto":
            return self.base == "biases"
        return manifest.users_by_split["validation"] > 0

    def prepare(self, context: Context) -> None:
        if self.fits_biases(context.manifest):
            make_biases(context, self.labelled(context))

    def batch_fields(self, context: Context) -> RatedInteractions:
        labelled = self.labelled(context)
        fits = self.fits_biases(context.manifest)
        base = read_biases(context, labelled) if fits else None
        weights = target_weights(context.manifest, labelled=labelled)
        return RatedInteractions(weights, ranks=False, base=base)

    def offset(self, context: Context) -> Biases | None:
        fits = self.fits_biases(context.manifest)
        return read_biases(context, self.labelled(context)) if fits else None

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.rating.module import RatingModule

        return RatingModule(
            self,
            context.name,
            context.manifest,
            dim=context.job.model.dim,
            model=context.job.model,
            device=device,
        )

    def evaluation(self, context: Context) -> RatingEvaluation:
        from p5dist.tasks.rating.evaluation import RatingEvaluation

        return RatingEvaluation(context.manifest)


class RatedInteractions(Predictions):
    """Every interaction predicts the next one of its history that has a rating. With biases also
    the field ``base`` [M] float32: the ratings by the biases alone.

    Args:
        base: the biases; None: no such field.
    """

    def __init__(
        self,
        weights: TargetWeights | None = None,
        *,
        ranks: bool,
        base: Biases | None = None,
    ) -> None:
        super().__init__(weights, ranks=ranks)
        self._base = base

    def arrays(self, batch: Collated) -> dict[str, Array]:
        found = super().arrays(batch)
        if self._base is None:
            return found
        base = self._base.of_training(batch.histories, found["at"], found["target"])
        return found | {"base": base.astype(np.float32)}

    def choose(self, batch: Collated) -> tuple[Ints, Ints]:
        at = before_others(batch.histories)
        at = at[~np.isnan(batch.histories.rating[at + 1])]
        return at, at + 1
