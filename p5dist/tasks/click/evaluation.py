"""Evaluation of predicted click probabilities, with the item's share of yes as the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Ints
from p5dist.ranking.baselines import ItemRate
from p5dist.ranking.metrics import Estimate, click_metrics
from p5dist.ranking.targets import TargetBatch
from p5dist.tasks.click import Click
from p5dist.tasks.click.examples import Label
from p5dist.tasks.evaluation import MODEL, USER, Evaluation, Predictor
from p5dist.tasks.task import Context

LABEL, ITEM_RATE = "label", "item_rate"


class ClickEvaluation(Evaluation):
    """AUC, log loss and calibration over the targets that have a label and, if the task draws
    negatives, over items that the user has not had, drawn for each yes. The draws do not depend on
    the batches.

    Args:
        config: the task section.
        context: of the task.
    """

    title = "Click"

    def __init__(self, config: Click, context: Context) -> None:
        self._config = config
        self._catalogue = context.catalogue
        self._label = Label(config, context.manifest)
        self._draw = config.drawn(context, context.job.seed)

    def fit(self, parts: Iterable[Histories]) -> ItemRate:
        parts = list(parts)
        item = np.concatenate([part.item for part in parts])
        label = np.concatenate([self._label(part.event, part.rating) for part in parts])
        return ItemRate.fit(item, label, self._catalogue, self._config.negatives)

    def examples(
        self, predictor: Predictor, batch: TargetBatch, baselines: ItemRate | None
    ) -> Mapping[str, Array]:
        label = self._label(batch.event, batch.rating)
        target = np.flatnonzero(~np.isnan(label))
        item, label = batch.item[target], label[target]
        if self._draw is not None:
            owner = batch.owner[target]
            row, number = batch.histories.user[owner], _number_of_owner(owner)
            drawn = self._draw.draw(batch.had, owner, row, number, 0)
            of, column = np.nonzero((drawn > 0) & (label == 1)[:, None])
            target = np.concatenate([target, target[of]])
            item = np.concatenate([item, drawn[of, column]])
            label = np.concatenate([label, np.zeros(len(of), np.float32)])
        owner = batch.owner[target]
        found: dict[str, Array] = {
            USER: batch.histories.user[owner],
            LABEL: label.astype(np.float64),
            MODEL: predictor.predict(batch.histories, owner, item, batch.timestamp[target]),
        }
        if baselines is not None:
            found[ITEM_RATE] = baselines.probability[item - 1]
        return found

    def measure(
        self, examples: Mapping[str, Array], *, resamples: int, seed: int
    ) -> Mapping[str, Mapping[str, Estimate]]:
        return {
            name: click_metrics(
                examples[LABEL], examples[name], examples[USER],
                resamples=resamples if name == MODEL else 0, seed=seed,
            )
            for name in (MODEL, ITEM_RATE)
            if name in examples
        }  # fmt: skip


def _number_of_owner(owner: Ints) -> Ints:
    """[M] number of earlier targets of the same owner; ``owner`` rises."""
    return np.arange(len(owner)) - np.searchsorted(owner, owner)
