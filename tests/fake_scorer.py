"""A stand-in for a trained stage, quick to load, whose scores a test can compute on its own."""

from __future__ import annotations

import numpy as np
import torch

from p5dist.config import RunConfig
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.ranking.targets import Clicks, Targets
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

    def __init__(self, items: int) -> None:
        self.items = items

    def item_vectors(self) -> torch.Tensor:
        return torch.from_numpy(item_matrix(self.items))

    def user_vectors(self, histories: Histories) -> torch.Tensor:
        vectors = np.zeros((len(histories), 6), dtype=np.float32)
        np.add.at(vectors, histories.owner(), item_matrix(self.items)[histories.item - 1])
        return torch.from_numpy(vectors)

    def ratings(self, histories: Histories, owner: Ints, item: Ints) -> torch.Tensor:
        return torch.from_numpy(rating_of(histories.user[owner], item))

    def clicks(self, histories: Histories, targets: Targets) -> Clicks:
        label = (targets.event == 2).astype(np.float64)
        everything = np.arange(len(targets.item))
        return Clicks(
            everything, targets.owner, targets.item, label, click_of(targets.user, targets.item)
        )


class BrokenScorer(FakeScorer):
    """Its training diverged."""

    def user_vectors(self, histories: Histories) -> torch.Tensor:
        return super().user_vectors(histories) * torch.nan


def load_fake(job: RunConfig, folder: RunFolder, stage: str) -> FakeScorer:
    """As p5dist.inference.scorer.load_scorer."""
    return FakeScorer(Manifest.load(folder.prepare).items)


def load_broken(job: RunConfig, folder: RunFolder, stage: str) -> FakeScorer:
    """A scorer whose scores are NaN."""
    return BrokenScorer(Manifest.load(folder.prepare).items)
