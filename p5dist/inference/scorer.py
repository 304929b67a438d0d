"""A trained model in one process, for evaluation and recommendation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.checkpoint.pieces import AVERAGE
from p5dist.config import RunConfig
from p5dist.data.batch import Batch
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError
from p5dist.feed.collate import Collate
from p5dist.feed.unclicked import Unclicked
from p5dist.ranking.targets import Clicks, Targets
from p5dist.storage import RunFolder
from p5dist.tasks.build import Model, build_model, make_collate
from p5dist.tasks.click import Click
from p5dist.tasks.rating import Rating

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
        self.unclicked = collate.extras.unclicked
        self.items = items
        self.max_length = max_length

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """[items, dim] float32; row i belongs to item id i + 1."""
        parts = []
        for first in range(1, self.items + 1, _ITEMS_AT_ONCE):
            ids = np.arange(first, min(first + _ITEMS_AT_ONCE, self.items + 1))
            batch = self.collate(Histories.empty(), candidates=ids)
            parts.append(self.model.backbone.item_vectors(batch)[batch.candidates])
        return torch.cat(parts)

    @torch.no_grad()
    def user_vectors(self, histories: Histories) -> Tensor:
        """[B, dim] float32: what the next item is ranked by. For an empty history zero, or what a
        masked model has without any."""
        batch = self.collate(histories.last(self.seen))
        vectors = self.model.head.user_vectors(self.model.backbone, batch)
        return torch.empty_like(vectors).index_copy(0, self._original(histories), vectors)

    @torch.no_grad()
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
        at = self._targets(histories, owner, batch)
        users = head.rows_of_users(batch)
        return head.predict(
            at.last(encoded.states),
            encoded.items[batch.candidates],
            None if users is None else users[at.history],
        )

    @torch.no_grad()
    def clicks(self, histories: Histories, targets: Targets) -> Clicks:
        """What the click task says of the targets that have a label, and of the items that it draws
        beside those that are a yes; the draws are the same for any batch.

        Raises:
            ConfigError: the stage does not predict clicks.
        """
        head = self.model.head.part(Click)
        if head is None:
            raise ConfigError(
                "this stage predicts no clicks", where="finetune",
                fix="name a stage whose task has kind: click",
            )  # fmt: skip
        label = head.label(torch.from_numpy(targets.event).long(), torch.from_numpy(targets.rating))
        examples = _with_drawn(targets, label.numpy(), histories, self.unclicked)
        batch = self.collate(histories.last(self.seen), extra_items=examples.item)
        encoded = head.encode(self.model.backbone, batch)
        at = self._targets(histories, examples.owner, batch)
        users = head.rows_of_users(batch)
        time = torch.from_numpy(targets.timestamp[examples.target])
        before = at.last(batch.timestamp)
        logits = head.predict(
            at.last(head.facts(batch)),
            torch.where(at.known, before, time),
            time,
            encoded.items[batch.candidates],
            at.last(encoded.states),
            None if users is None else users[at.history],
        )
        return replace(examples, probability=torch.sigmoid(logits.double()).numpy())

    def _targets(self, histories: Histories, owner: Ints, batch: Batch) -> _Ends:
        """Where the histories ``owner`` of the caller are in the batch made of all of them."""
        place = torch.empty(len(histories), dtype=torch.long)
        place[self._original(histories)] = torch.arange(len(histories))
        history = place[torch.from_numpy(owner)]
        ends = torch.nonzero(~batch.has_next).squeeze(1)
        last = torch.full((len(histories),), -1).index_copy(0, batch.owner[ends], ends)
        return _Ends(history, last[history])

    def _original(self, histories: Histories) -> Tensor:
        """[B] index in ``histories`` of each history of the batch made of them."""
        lengths = np.minimum(histories.lengths, self.seen)
        return torch.from_numpy(np.argsort(-lengths, kind="stable"))


@dataclass(frozen=True)
class _Ends:
    """M targets and the batch that holds their histories."""

    history: Tensor
    """[M] index of the history in the batch"""
    end: Tensor
    """[M] its last interaction; -1 where it has none"""

    @property
    def known(self) -> Tensor:
        """[M] whether the history has interactions."""
        return self.end >= 0

    def last(self, values: Tensor) -> Tensor:
        """[M, …] of ``values`` [T, …], zero where there is none."""
        if not len(values):
            return values.new_zeros(len(self.end), *values.shape[1:])
        chosen = values[self.end.clamp(min=0)]
        return chosen * self.known.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)


def _with_drawn(
    targets: Targets, label: npt.NDArray[np.float32], histories: Histories, draw: Unclicked | None
) -> Clicks:
    """Targets with a label, then what is drawn beside those that are a yes; without
    probabilities."""
    target = np.flatnonzero(~np.isnan(label))
    item, label = targets.item[target], label[target]
    if draw is not None:
        owner = targets.owner[target]
        drawn = draw.of(histories, owner, histories.user[owner], target_number(owner), 0, item)
        of, column = np.nonzero((drawn > 0) & (label == 1)[:, None])
        target = np.concatenate([target, target[of]])
        item = np.concatenate([item, drawn[of, column]])
        label = np.concatenate([label, np.zeros(len(of), np.float32)])
    nothing = np.zeros(len(item))
    return Clicks(target, targets.owner[target], item, label.astype(np.float64), nothing)


def target_number(owner: Ints) -> Ints:
    """[M] how many targets of the same owner come before; ``owner`` rises."""
    return np.arange(len(owner)) - np.searchsorted(owner, owner)


def load_scorer(job: RunConfig, folder: RunFolder, stage: str) -> Scorer:
    """The best checkpoint of a training stage, or the latest where it has no validation, with whole
    tables in this process on CPU.

    Raises:
        CheckpointError: the stage has no complete checkpoint, or it does not fit the job.
    """
    manifest = Manifest.load(folder.prepare)
    training = job.trainings()[stage]
    model = build_model(job, stage, manifest, torch.device("cpu"))
    prefix = "model." if training.average is None else AVERAGE
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    Checkpoints(folder.training(stage) / "checkpoints").best().load(state)
    return Scorer(
        model,
        make_collate(job, folder, manifest, training),
        manifest.items,
        job.feed.max_length,
        shuffled=training.shuffled,
    )
