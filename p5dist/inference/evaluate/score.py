"""What a scoring actor does with the histories of a unit: ranks and predictions of the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch

from p5dist.config import RunConfig
from p5dist.config.heads import ClickTask
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import Stream, uniform
from p5dist.errors import TrainingError
from p5dist.inference.actors import Load, Predictor, Reader, Unit, training_sample
from p5dist.ranking.baselines import Biases, ItemRate, ItemToItem, Popularity
from p5dist.ranking.interpolation import Mixture
from p5dist.ranking.targets import Targets
from p5dist.ranking.topk import Lists, Ranker, VectorRanker, rank_and_list
from p5dist.storage import RunFolder
from p5dist.tasks.click import Label

MODEL, MODEL_ALONE = "model", "model_alone"
PREDICTED = "predicted"
PREDICTED_BIAS = "predicted_bias"
SKIPPED = "skipped"
CLICK_USER, LABEL, PROBABILITY, ITEM_RATE = "click_user", "label", "probability", "item_rate"


@dataclass(frozen=True)
class Baselines:
    """Fitted on training interactions."""

    popularity: Popularity
    item_to_item: ItemToItem
    biases: Biases | None
    item_rate: ItemRate | None
    interactions: int
    """Those that all but popularity were fitted on."""

    @classmethod
    def fit(cls, reader: Reader, manifest: Manifest, click: ClickTask | None) -> Baselines:
        """Read the training interactions and fit; runs in one Ray task.

        Args:
            click: the task whose labels have a baseline.
        """
        count = (reader.prepare / "vocabulary" / "item.parquet").read_table([c.COUNT])
        parts = training_sample(reader, manifest)
        return cls(
            popularity=Popularity(count[c.COUNT].to_numpy()),
            item_to_item=ItemToItem.fit(parts, manifest.items),
            biases=Biases.fit(parts, manifest.items) if c.RATING in reader.columns else None,
            item_rate=None if click is None else _item_rate(click, manifest, parts),
            interactions=sum(len(part.item) for part in parts),
        )


@dataclass(frozen=True)
class Plan:
    """What is evaluated; makes an actor's :class:`TargetScorer`."""

    job: RunConfig
    folder: RunFolder
    ranking: str | None
    """Training stage whose model ranks."""
    rating: str | None
    """Training stage that predicts ratings."""
    click: str | None
    """Training stage that predicts clicks."""
    rating_range: tuple[float, float] | None
    baselines: Any
    """Object reference of the fitted Baselines."""
    load: Load
    share: float = 1.0
    """Of the users; the others are not evaluated."""

    def __call__(self) -> TargetScorer:
        stages = {self.ranking, self.rating, self.click}
        loaded = {s: self.load(self.job, self.folder, s) for s in stages if s}
        baselines: Baselines = ray.get(self.baselines)
        rankers: dict[str, Ranker] = {}
        if self.ranking is not None:
            rankers = {MODEL: VectorRanker(loaded[self.ranking])}
            share = self.job.ranking.item_to_item
            if share:
                alone = rankers[MODEL]
                rankers[MODEL] = Mixture(alone, baselines.item_to_item, share)
                rankers[MODEL_ALONE] = alone
            rankers |= {b.name: b for b in (baselines.popularity, baselines.item_to_item)}
        return TargetScorer(self, rankers, loaded, baselines)


class TargetScorer:
    """Scores units with the model and the baselines.

    The result is one row: lists ``user``, ``item``, ``rank:<ranker>`` and predictions with an
    entry a target; ``click_user``, ``label``, ``probability`` and ``item_rate`` with an entry an
    example of the click task; ``listed:<ranker>`` with the distinct items in the lists of the unit
    and ``place:<ranker>`` with the best place of each; the number ``skipped``.
    """

    def __init__(
        self,
        plan: Plan,
        rankers: dict[str, Ranker],
        loaded: dict[str, Predictor],
        baselines: Baselines | None,
    ) -> None:
        self.plan, self.rankers = plan, rankers
        self.predictor = loaded.get(plan.rating or "")
        self.clicker = loaded.get(plan.click or "")
        self.biases = None if baselines is None else baselines.biases
        self.item_rate = None if baselines is None else baselines.item_rate
        assert plan.job.evaluate is not None
        self.config = plan.job.evaluate

    def __call__(self, unit: Unit, histories: Histories) -> pa.Table:
        if self.plan.share < 1:
            chosen = (
                uniform(self.plan.job.seed, Stream.EVALUATED_USERS, histories.user)
                < self.plan.share
            )
            histories = histories.take(np.flatnonzero(chosen))
        targets, skipped = Targets.of(histories, c.SPLIT_CODES[self.config.split])
        found: dict[str, list[npt.NDArray[Any]]] = {
            name: [np.empty(0, kind)] for name, kind in self._columns().items()
        }
        first = {name: unlisted(ranker.items) for name, ranker in self.rankers.items()}
        for part in targets.batches(self.config.batch_size):
            row = {c.USER: part.user, c.ITEM: part.item}
            row |= {**self._ratings(part), **self._clicks(part)}
            for name, ranker in self.rankers.items():
                ranks, lists = rank_and_list(
                    ranker, part.histories, part.owner, part.item, max(self.config.k),
                    mask_seen=self.config.mask_seen,
                )  # fmt: skip
                row[f"rank:{name}"] = ranks
                np.minimum(first[name], _places(lists, ranker.items), out=first[name])
            for name, values in row.items():
                found[name].append(values)
        result = {name: _list(np.concatenate(parts)) for name, parts in found.items()}
        for name, place in first.items():
            listed = np.flatnonzero(place < UNLISTED)
            result[f"listed:{name}"] = _list(listed)
            result[f"place:{name}"] = _list(place[listed])
        return pa.table({SKIPPED: [skipped], **result})

    def _columns(self) -> dict[str, type]:
        names: dict[str, type] = {c.USER: np.int64, c.ITEM: np.int64}
        names |= {f"rank:{name}": np.int64 for name in self.rankers}
        if self.predictor is not None and self.biases is not None:
            names |= dict.fromkeys((c.RATING, PREDICTED, PREDICTED_BIAS), np.float64)
        if self.clicker is not None and self.item_rate is not None:
            names |= {CLICK_USER: np.int64}
            names |= dict.fromkeys((LABEL, PROBABILITY, ITEM_RATE), np.float64)
        return names

    def _ratings(self, part: Targets) -> dict[str, npt.NDArray[Any]]:
        if self.predictor is None or self.biases is None:
            return {}
        owner, item = part.owner, part.item
        predicted = {
            PREDICTED: self.predictor.ratings(part.histories, owner, item).double().numpy(),
            PREDICTED_BIAS: self.biases.predict(part.histories, owner, item),
        }
        if np.isnan(predicted[PREDICTED]).any():
            raise TrainingError(
                "predicted ratings are not numbers (NaN)", where=self.plan.rating,
                fix="look at the loss of the training stage; train again with lower learning rates",
            )  # fmt: skip
        if self.plan.rating_range is not None:
            predicted = {n: np.clip(v, *self.plan.rating_range) for n, v in predicted.items()}
        return {c.RATING: part.rating.astype(np.float64), **predicted}

    def _clicks(self, part: Targets) -> dict[str, npt.NDArray[Any]]:
        if self.clicker is None or self.item_rate is None:
            return {}
        found = self.clicker.clicks(part.histories, part)
        if np.isnan(found.probability).any():
            raise TrainingError(
                "predicted probabilities are not numbers (NaN)", where=self.plan.click,
                fix="look at the loss of the training stage; train again with lower learning rates",
            )  # fmt: skip
        return {
            CLICK_USER: part.histories.user[found.owner],
            LABEL: found.label,
            PROBABILITY: found.probability,
            ITEM_RATE: self.item_rate.probability[found.item - 1],
        }


def _item_rate(click: ClickTask, manifest: Manifest, parts: list[Histories]) -> ItemRate:
    rule = Label(click, manifest)
    item = np.concatenate([part.item for part in parts])
    event = torch.from_numpy(np.concatenate([part.event for part in parts]))
    rating = torch.from_numpy(np.concatenate([part.rating for part in parts]))
    return ItemRate.fit(item, rule(event.long(), rating).numpy(), manifest.items, click.negatives)


UNLISTED = 1 << 30


def unlisted(items: int) -> Ints:
    """[items] places of items that are in no list."""
    return np.full(items, UNLISTED, dtype=np.int64)


def _list(values: npt.NDArray[Any]) -> pa.Array:
    """A column of one row that holds all values."""
    return pa.ListArray.from_arrays([0, len(values)], pa.array(values))


def _places(lists: Lists, items: int) -> Ints:
    """[items] the best place of each item in any list."""
    first = unlisted(items)
    for place in range(lists.ids.shape[1], 0, -1):
        ids = lists.ids[:, place - 1]
        first[ids[ids > 0] - 1] = place
    return first
