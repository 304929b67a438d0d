"""A trained stage in one process: vectors that rank items, and predictions of its tasks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p5dist.config import RunConfig
from p5dist.data.batch import Batch
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints
from p5dist.data.matrix import BLOCK
from p5dist.environment.workers import Here
from p5dist.errors import TrainingError
from p5dist.feed.collate import Collate
from p5dist.inference.device import scoring_device
from p5dist.inference.vectors import (
    Trained,
    are_there,
    hold_vectors,
    make_vectors,
    with_stored_vectors,
)
from p5dist.storage import Folder, RunFolder
from p5dist.tasks.build import Model, offsets_of
from p5dist.tasks.module import Asked
from p5dist.tasks.task import Offset


class Scorer:
    """Vectors and predictions of a trained stage; logits of users over items are
    ``user_vectors @ item_vectors.T``.

    Args:
        model: with trained weights. If its tables are sharded, all workers must call the methods
            together, and iterate over the items together.
        collate: the collate function of the stage's training.
        catalogue: the items of the prepared data.
        max_length: number of last interactions of a history that the encoder sees.
        device: of the model; vectors are on it, predictions are arrays.
        shuffled: tasks predict from histories in random order, as in training.
        offsets: by task what is added to the predictions of its module.
    """

    def __init__(
        self,
        model: Model,
        collate: Collate,
        catalogue: Catalogue,
        max_length: int,
        *,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        shuffled: bool = False,
        offsets: Mapping[str, Offset] | None = None,
    ) -> None:
        self.own_files: tempfile.TemporaryDirectory[str] | None = None
        self.device, self.shuffled, self.offsets = device, shuffled, offsets or {}
        self.model = model.eval()
        # A masked model predicts at a hidden interaction after the history: one position less.
        masked = model.backbone.bidirectional
        self.collate = collate.for_inference(masked_next=masked)
        self.seen = max_length - masked
        self.catalogue = catalogue

    @torch.no_grad()
    def item_vectors(self, ids: Ints | None = None) -> Tensor:
        """[n, dim] float32 of the item ids ``ids`` [n]; left out: [largest id, dim] of all ids, row
        i belongs to item id i + 1."""
        return self._of_items(ids, self.model.backbone.item_vectors)

    @torch.no_grad()
    def item_rows(self) -> Tensor:
        """[largest id, dim] what the encoder reads of each item: its vector, before it is scaled
        for products (``model.cosine_temperature``)."""
        tables = self.model.backbone.items
        return self._of_items(None, lambda batch: tables(batch.items, batch.item_attributes))

    def _of_items(self, ids: Ints | None, compute: Callable[[Batch], Tensor]) -> Tensor:
        ids = np.arange(1, self.catalogue.largest + 1) if ids is None else ids
        parts = []
        for first in range(0, max(len(ids), 1), BLOCK):
            batch = self._batch(Histories.empty(), candidates=ids[first : first + BLOCK])
            parts.append(compute(batch)[batch.candidates])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def items(self, held: int = 0) -> ItemVectors:
        """The vectors of all items in blocks, see :class:`.products.ItemBlocks`.

        Args:
            held: bytes of vectors that may stay in memory; if all take more, every iteration
                computes them again.
        """
        return ItemVectors(self, held)

    @torch.no_grad()
    def user_vectors(self, histories: Histories) -> Tensor:
        """[B, dim] float32 user vectors, which rank the next item. For an empty history zero; a
        masked model encodes the hidden next interaction alone."""
        batch = self._batch(histories.last(self.seen))
        vectors = self.model.head.user_vectors(self.model.backbone, batch)
        return torch.empty_like(vectors).index_copy(0, self._original(histories), vectors)

    def task(self, name: str) -> TrainedTask:
        """The predictions of the task ``name`` of the stage (empty if the stage has one task)."""
        return TrainedTask(self, name)

    @torch.no_grad()
    def predict(
        self, name: str, histories: Histories, owner: Ints, item: Ints, timestamp: Ints
    ) -> Floats:
        """See :meth:`p5dist.tasks.evaluation.Predictor.predict`.

        Raises:
            TrainingError: a prediction is not a number.
        """
        given = histories
        if self.shuffled:  # by user id, so the order does not depend on the rows of the user
            by_user = replace(histories, row=histories.user)
            histories = by_user.shuffled(self.collate.seed, 0)
        module = self.model.head.part(name)
        batch = self._batch(histories.last(self.seen), extra_items=item)
        encoded = module.encode(self.model.backbone, batch)
        places = torch.arange(len(histories), device=self.device)
        row = torch.empty_like(places).index_copy(0, self._original(histories), places)
        history = row[torch.from_numpy(owner).to(self.device)]
        empty = batch.histories - len(batch.ends)
        last = F.pad(batch.ends, (0, empty), value=-1)
        asked = Asked(
            batch=batch,
            states=encoded.states,
            items=encoded.items[batch.candidates],
            timestamp=torch.from_numpy(timestamp).to(self.device),
            history=history,
            end=last[history],
        )
        predicted: Floats = module.predict(asked).double().cpu().numpy()
        if name in self.offsets:
            predicted = predicted + self.offsets[name].predict(given, owner, item)
        if np.isnan(predicted).any():
            raise TrainingError(
                "predictions are not numbers (NaN)", where=name or None,
                fix="look at the loss of the training stage; train again with lower learning rates",
            )  # fmt: skip
        return predicted

    def _original(self, histories: Histories) -> Tensor:
        """[B] index in ``histories`` of each history of their batch."""
        lengths = np.minimum(histories.lengths, self.seen)
        return torch.from_numpy(np.argsort(-lengths, kind="stable")).to(self.device)

    def _batch(
        self,
        histories: Histories,
        candidates: Ints | None = None,
        extra_items: Ints | None = None,
    ) -> Batch:
        made = self.collate(histories, candidates=candidates, extra_items=extra_items)
        return made.to(self.device)


@dataclass(frozen=True)
class TrainedTask:
    """One task of a trained stage."""

    scorer: Scorer
    name: str

    def predict(self, histories: Histories, owner: Ints, item: Ints, timestamp: Ints) -> Floats:
        """See :class:`p5dist.tasks.evaluation.Predictor`."""
        return self.scorer.predict(self.name, histories, owner, item, timestamp)


class ItemVectors:
    """See :meth:`Scorer.items`."""

    def __init__(self, scorer: Scorer, held: int) -> None:
        self.catalogue, self._scorer = scorer.catalogue, scorer
        self._held: list[tuple[int, Tensor]] = []
        self._most = held

    def __len__(self) -> int:
        return self.catalogue.largest // BLOCK + 1

    @property
    def streams(self) -> bool:
        """Whether every iteration computes the vectors again."""
        return len(self._held) < len(self)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        if not self.streams:
            yield from self._held
            return
        self._held = []
        for number in range(len(self)):
            first = max(number * BLOCK, 1)
            end = min((number + 1) * BLOCK, self.catalogue.largest + 1)
            vectors = self._scorer.item_vectors(np.arange(first, end, dtype=np.int64))
            if 4 * vectors.shape[1] * self.catalogue.largest <= self._most:
                self._held.append((first, vectors))
            yield first, vectors


def load_scorer(job: RunConfig, folder: RunFolder, stage: str) -> Scorer:
    """The best checkpoint of a training stage, or the latest if the stage has no validation. Its
    vectors are those that :func:`.vectors.make_vectors` wrote; without them they are computed into
    a temporary folder.

    Raises:
        CheckpointError: the stage has no complete checkpoint, or the checkpoint does not fit the
            job.
    """
    trained, own = Trained(job, folder, stage), None
    vectors = trained.vectors
    if not are_there(trained):
        own = tempfile.TemporaryDirectory(prefix="p5dist-")
        vectors = Folder.open(own.name)
        make_vectors(trained, Here(), vectors)
    model, collate, manifest = with_stored_vectors(trained, vectors)
    training, device = job.trainings()[stage], scoring_device(job.scale)
    if device.type != "cpu":
        hold_vectors(model.to(device), device)
    scorer = Scorer(
        model,
        collate,
        Catalogue.read(folder.prepare, manifest),
        job.feed.max_length,
        device=device,
        shuffled=training.shuffled,
        offsets=offsets_of(job, stage, manifest, folder.prepare),
    )
    scorer.own_files = own
    return scorer
