"""Evaluation of predicted ratings, with the global mean and user and item biases as baselines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Array
from p5dist.data.manifest import Manifest
from p5dist.ranking.baselines import Biases
from p5dist.ranking.metrics import Estimate, error_values, estimate
from p5dist.ranking.targets import TargetBatch
from p5dist.tasks.evaluation import MODEL, USER, Evaluation, Predictor

GLOBAL_MEAN, BIASES = "global_mean", "user_item_bias"
PREDICTED = "predicted"


class RatingEvaluation(Evaluation):
    """RMSE and MAE; predictions are clipped to the range of the training ratings.

    Args:
        manifest: mean and range of the training ratings.
    """

    title = "Rating"

    def __init__(self, manifest: Manifest) -> None:
        self._items = manifest.items
        self._mean = manifest.rating_mean
        self._range = manifest.rating_range

    def fit(self, parts: Iterable[Histories]) -> Biases | None:
        return Biases.fit(parts, self._items)

    def examples(
        self, predictor: Predictor, batch: TargetBatch, baselines: Biases | None
    ) -> Mapping[str, Array]:
        found: dict[str, Array] = {
            USER: batch.user,
            c.RATING: batch.rating.astype(np.float64),
            MODEL: predictor.predict(batch.histories, batch.owner, batch.item, batch.timestamp),
        }
        if baselines is not None:
            found[BIASES] = baselines.predict(batch.histories, batch.owner, batch.item)
        if self._range is not None:
            for name in (MODEL, BIASES):
                if name in found:
                    found[name] = np.clip(found[name], *self._range)
        return found

    def measure(
        self, examples: Mapping[str, Array], *, resamples: int, seed: int
    ) -> Mapping[str, Mapping[str, Estimate]]:
        rated = ~np.isnan(examples[c.RATING])
        rating, user = examples[c.RATING][rated], examples[USER][rated]
        predictions = {n: examples[n][rated] for n in (MODEL, BIASES) if n in examples}
        if self._mean is not None and BIASES in predictions:
            predictions[GLOBAL_MEAN] = np.full(len(rating), self._mean)
        return {
            name: estimate(
                error_values(predicted, rating), user,
                resamples=resamples if name == MODEL else 0, seed=seed,
            )
            for name, predicted in predictions.items()
        }  # fmt: skip

    def number(self, examples: Mapping[str, Array]) -> int:
        return int((~np.isnan(examples[c.RATING])).sum())

    def columns(self, examples: Mapping[str, Array]) -> Mapping[str, Array]:
        return {c.RATING: examples[c.RATING], PREDICTED: examples[MODEL]}
