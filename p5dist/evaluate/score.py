"""What a scoring actor does with the histories of a unit: ranks and predictions of the targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from p5dist import columns as c
from p5dist.config import RunConfig
from p5dist.errors import TrainingError
from p5dist.feed.histories import Histories, Ints
from p5dist.manifest import Manifest
from p5dist.ranking.baselines import Biases, ItemToItem, Popularity
from p5dist.ranking.topk import Lists, Ranker, VectorRanker, rank_and_list
from p5dist.scoring import Load, Predictor, Reader, Unit, batches, plan_units
from p5dist.storage import RunFolder

MODEL = "model"
PREDICTED = "predicted"
PREDICTED_BIAS = "predicted_bias"
SKIPPED = "skipped"

FIT_INTERACTIONS = 20_000_000
"""Baselines are fitted on whole shards' users (a random sample) up to about this many."""


@dataclass(frozen=True)
class Baselines:
    """Fitted on training interactions."""

    popularity: Popularity
    item_to_item: ItemToItem
    biases: Biases | None
    interactions: int
    """Those that item_to_item and biases were fitted on."""

    @classmethod
    def fit(cls, reader: Reader, manifest: Manifest) -> Baselines:
        """Read the training interactions and fit; runs in one Ray task."""
        count = (reader.prepare / "vocabulary" / "item.parquet").read_table([c.COUNT])
        share = max(1.0, manifest.rows_by_split["train"] / FIT_INTERACTIONS)
        rows = max(1, int(manifest.histories / share))
        parts, read = [], 0
        for unit in plan_units(manifest, 65_536):
            if read >= rows:
                break
            histories = reader.read(unit)
            parts.append(histories.where(histories.split == c.TRAIN))
            read += len(histories)
        return cls(
            popularity=Popularity(count[c.COUNT].to_numpy()),
            item_to_item=ItemToItem.fit(parts, manifest.items),
            biases=Biases.fit(parts, manifest.items) if c.RATING in reader.columns else None,
            interactions=sum(len(part.item) for part in parts),
        )


@dataclass(frozen=True)
class Targets:
    """B histories up to the evaluated split, and the M interactions of that split."""

    histories: Histories
    owner: Ints
    """[M] index of the history, rising"""
    user: Ints
    """[M]"""
    item: Ints
    """[M]"""
    rating: npt.NDArray[np.float32]
    """[M]"""

    @classmethod
    def of(cls, histories: Histories, split: int) -> tuple[Targets, int]:
        """Targets of the users that have any, and the number of users left out because nothing
        is known about them before."""
        known = histories.where(histories.split < split)
        wanted = histories.where(histories.split == split)
        new = (known.lengths == 0) & (wanted.lengths > 0)
        chosen = np.flatnonzero((wanted.lengths > 0) & ~new)
        wanted = wanted.take(chosen)
        owner = wanted.owner()
        found = cls(known.take(chosen), owner, wanted.user[owner], wanted.item, wanted.rating)
        return found, int(new.sum())

    def batches(self, size: int) -> Iterable[Targets]:
        start = 0
        for part in batches(self.histories, size):
            m = slice(*np.searchsorted(self.owner, (start, start + len(part))))
            yield Targets(part, self.owner[m] - start, self.user[m], self.item[m], self.rating[m])
            start += len(part)


@dataclass(frozen=True)
class Plan:
    """What is evaluated; makes an actor's :class:`TargetScorer`."""

    job: RunConfig
    folder: RunFolder
    ranking: str | None
    """Training stage whose model ranks."""
    rating: str | None
    """Training stage that predicts ratings."""
    rating_range: tuple[float, float] | None
    baselines: Any
    """Object reference of the fitted Baselines."""
    load: Load

    def __call__(self) -> TargetScorer:
        loaded = {s: self.load(self.job, self.folder, s) for s in {self.ranking, self.rating} if s}
        baselines: Baselines = ray.get(self.baselines)
        rankers: dict[str, Ranker] = {}
        if self.ranking is not None:
            found = VectorRanker(loaded[self.ranking])
            rankers = {MODEL: found}
            rankers |= {b.name: b for b in (baselines.popularity, baselines.item_to_item)}
        predictor = None if self.rating is None else loaded[self.rating]
        return TargetScorer(self, rankers, predictor, baselines.biases)


class TargetScorer:
    """Scores units with the model and the baselines.

    The result is one row: lists ``user``, ``item``, ``rank:<ranker>`` and predictions with an
    entry a target; ``listed:<ranker>`` with the distinct items in the lists of the unit and
    ``place:<ranker>`` with the best place of each; the number ``skipped``.
    """

    def __init__(
        self,
        plan: Plan,
        rankers: dict[str, Ranker],
        predictor: Predictor | None,
        biases: Biases | None,
    ) -> None:
        self.plan, self.rankers, self.predictor, self.biases = plan, rankers, predictor, biases
        assert plan.job.evaluate is not None
        self.config = plan.job.evaluate

    def __call__(self, unit: Unit, histories: Histories) -> pa.Table:
        targets, skipped = Targets.of(histories, c.SPLIT_CODES[self.config.split])
        found: dict[str, list[npt.NDArray[Any]]] = {
            name: [np.empty(0, kind)] for name, kind in self._columns().items()
        }
        first = {name: unlisted(ranker.items) for name, ranker in self.rankers.items()}
        for part in targets.batches(self.config.batch_size):
            row = {c.USER: part.user, c.ITEM: part.item, **self._ratings(part)}
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
        if self.predictor is None or self.biases is None:
            return names
        return names | dict.fromkeys((c.RATING, PREDICTED, PREDICTED_BIAS), np.float64)

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
