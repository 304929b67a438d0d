"""A trained model in one process, for evaluation and recommendation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.config import RunConfig
from p5dist.errors import ConfigError
from p5dist.feed.collate import Collate
from p5dist.feed.histories import Histories, Ints
from p5dist.manifest import Manifest
from p5dist.models.build import Model, build_model
from p5dist.models.tasks.rating import Rating
from p5dist.storage import RunFolder
from p5dist.train.session import make_collate

_ITEMS_AT_ONCE = 65_536


class Scorer:
    """Vectors and predictions of a trained stage; logits of users over items are
    ``user_vectors @ item_vectors.T``.

    Args:
        model: whole, on one device, with its weights.
        collate: makes the batches of its training.
        items: largest item id.
        max_length: interactions of a history that the encoder sees (the last ones).
        shuffled: ratings are predicted from histories in random order, as they were learned.
    """

    def __init__(
        self,
        model: Model,
        collate: Collate,
        items: int,
        max_length: int,
        *,
        shuffled: bool = False,
    ) -> None:
        self.shuffled = shuffled
        self.model = model.eval()
        # A masked model fills a gap after the history, which takes one of the positions.
        masked = model.backbone.bidirectional
        self.collate = collate.for_inference(masked_next=masked)
        self.seen = max_length - masked
        self.items = items
        self.max_length = max_length

    @torch.inference_mode()
    def item_vectors(self) -> Tensor:
        """[items, dim] float32; row i belongs to item id i + 1."""
        parts = []
        for first in range(1, self.items + 1, _ITEMS_AT_ONCE):
            ids = np.arange(first, min(first + _ITEMS_AT_ONCE, self.items + 1))
            batch = self.collate(Histories.empty(), candidates=ids)
            parts.append(self.model.backbone.item_vectors(batch)[batch.candidates])
        return torch.cat(parts)

    @torch.inference_mode()
    def user_vectors(self, histories: Histories) -> Tensor:
        """[B, dim] float32: what the next item is ranked by. For an empty history zero, or what a
        masked model has without any."""
        batch = self.collate(histories.last(self.seen))
        vectors = self.model.head.user_vectors(self.model.backbone, batch)
        return torch.empty_like(vectors).index_copy(0, self._original(histories), vectors)

    @torch.inference_mode()
    def ratings(self, histories: Histories, owner: Ints, item: Ints) -> Tensor:
        """[M] predicted rating of item id ``item[m]`` by the user of history ``owner[m]``.

        Raises:
            ConfigError: the stage does not predict ratings.
        """
        head = self.model.head.part(Rating)
        if head is None:
            raise ConfigError(
                "this stage predicts no ratings", where="finetune",
                fix="name a stage whose task has kind: rating",
            )  # fmt: skip
        if self.shuffled:
            histories = histories.shuffled(self.collate.seed, 0)
        batch = self.collate(histories.last(self.seen), extra_items=item)
        encoded = self.model.backbone(batch)
        # The batch has its own order of histories; M targets refer to the caller's.
        order = self._original(histories)
        states = torch.zeros(len(histories), encoded.states.shape[1])
        ends = torch.nonzero(~batch.has_next).squeeze(1)
        states[order[batch.owner[ends]]] = encoded.states[ends]
        of = torch.from_numpy(owner)
        users = head.rows_of_users(batch)
        if users is not None:
            users = torch.empty_like(users).index_copy(0, order, users)[of]
        return head.predict(states[of], encoded.items[batch.candidates], users)

    def _original(self, histories: Histories) -> Tensor:
        """[B] index in ``histories`` of each history of the batch made of them."""
        lengths = np.minimum(histories.lengths, self.seen)
        return torch.from_numpy(np.argsort(-lengths, kind="stable"))


def load_scorer(job: RunConfig, folder: RunFolder, stage: str) -> Scorer:
    """The latest checkpoint of a training stage, whole tables in this process on CPU.

    Raises:
        CheckpointError: the stage has no complete checkpoint, or it does not fit the job.
    """
    manifest = Manifest.load(folder.prepare)
    training = job.trainings()[stage]
    model = build_model(job, stage, manifest, torch.device("cpu"))
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    Checkpoints(folder.training(stage) / "checkpoints").require().load(state)
    return Scorer(
        model,
        make_collate(job, folder, manifest, training),
        manifest.items,
        job.feed.max_length,
        shuffled=training.shuffled,
    )
