"""A substitute for a trained stage that loads fast and whose scores a test can compute itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from p5dist.config import RunConfig
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.ranking.products import HeldItems
from p5dist.storage import RunFolder


def item_matrix(items: int) -> np.ndarray:
    """[items, 6] fixed random item vectors."""
    return np.random.default_rng(7).normal(size=(items, 6)).astype(np.float32)


def rating_of(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """0 to 6: some are outside of 1 to 5."""
    return ((user * 3 + item * 5) % 7).astype(np.float32)


def click_of(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """0.05 to 0.95."""
    return 0.05 + 0.09 * ((user * 5 + item * 3) % 11)


class FakeScorer:
    """A user's vector is the sum of the item vectors of the history."""

    def __init__(
        self,
        catalogue: Catalogue,
        predicts: Callable[[np.ndarray, np.ndarray], np.ndarray] = rating_of,
    ) -> None:
        self.catalogue, self.predicts = catalogue, predicts

    def items(self, held: int = 0) -> HeldItems:
        return HeldItems(torch.from_numpy(item_matrix(self.catalogue.largest)), self.catalogue)

    def item_vectors(self, ids: Ints | None = None) -> torch.Tensor:
        ids = self.catalogue.ids if ids is None else ids
        return torch.from_numpy(item_matrix(self.catalogue.largest)[ids - 1])

    def user_vectors(self, histories: Histories) -> torch.Tensor:
        vectors = np.zeros((len(histories), 6), dtype=np.float32)
        np.add.at(
            vectors, histories.owner(), item_matrix(self.catalogue.largest)[histories.item - 1]
        )
        return torch.from_numpy(vectors)

    def task(self, name: str) -> FakeTask:
        return FakeTask(self.predicts)


class FakeTask:
    """Predicts by user and item alone."""

    def __init__(self, predicts: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self.predicts = predicts

    def predict(self, histories: Histories, owner: Ints, item: Ints, timestamp: Ints) -> np.ndarray:
        return self.predicts(histories.user[owner], item).astype(np.float64)


class BrokenScorer(FakeScorer):
    """Its training diverged."""

    def user_vectors(self, histories: Histories) -> torch.Tensor:
        return super().user_vectors(histories) * torch.nan


def load_fake(job: RunConfig, folder: RunFolder, stage: str) -> FakeScorer:
    """As p5dist.inference.scorer.load_scorer."""
    kinds = {task.kind for task in job.trainings()[stage].tasks().values()}
    predicts = click_of if "click" in kinds else rating_of
    return FakeScorer(_catalogue(folder), predicts)


def load_broken(job: RunConfig, folder: RunFolder, stage: str) -> FakeScorer:
    """A scorer whose scores are NaN."""
    return BrokenScorer(_catalogue(folder))


def _catalogue(folder: RunFolder) -> Catalogue:
    return Catalogue.read(folder.prepare, Manifest.load(folder.prepare))
