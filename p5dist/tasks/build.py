"""From the job file to a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from p5dist.config import heads as config
from p5dist.config.losses import Loss
from p5dist.config.run import RunConfig
from p5dist.config.train import Finetune, Training
from p5dist.data.attributes import Attributes
from p5dist.data.batch import Batch
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError
from p5dist.feed.collate import Collate
from p5dist.feed.extras import Extras
from p5dist.feed.mix import open_mix
from p5dist.models.adapters import choose_trained, dense_parameters
from p5dist.models.backbone import Recommender
from p5dist.storage import RunFolder
from p5dist.tasks.attributes import AttributePrediction
from p5dist.tasks.causal import Causal
from p5dist.tasks.click import Click
from p5dist.tasks.head import Head
from p5dist.tasks.masked import Masked
from p5dist.tasks.multi import Multi
from p5dist.tasks.rating import Rating
from p5dist.tasks.skip_gram import SkipGram


class Model(nn.Module):
    """A backbone and the head (objective or task) of one training stage."""

    def __init__(self, backbone: Recommender, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """[K] losses of this worker's batch as sums."""
        sums: Tensor = self.head(self.backbone, batch)
        return sums


def build_model(job: RunConfig, stage: str, manifest: Manifest, device: torch.device) -> Model:
    """The model of a training stage; dense weights are drawn from the job's seed.

    Args:
        stage: ``pretrain`` or ``finetune/<task>``.
        device: of the tables; ``meta`` before sharding.

    Raises:
        ConfigError: an event that the log does not have, more attribute values than a dense layer
            can hold.
    """
    training = job.trainings()[stage]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        backbone = Recommender(
            job.model,
            manifest,
            max_length=job.feed.max_length,
            device=device,
            bidirectional=training.bidirectional,
        )
        head = _build_head(job, training, manifest, device)
        if isinstance(training, Finetune):
            choose_trained(backbone, training)
    if not head.reads_states:  # DDP waits for the gradient of everything that has one
        for parameter in dense_parameters(backbone):
            parameter.requires_grad_(False)
    return Model(backbone, head)


def _build_head(
    job: RunConfig, training: Training, manifest: Manifest, device: torch.device
) -> Head:
    heads = {
        name: _HEADS[type(section)](section, job, manifest, device)
        for name, section in training.heads().items()
    }
    weights = training.weights
    if weights is None:
        return next(iter(heads.values()))
    return Multi(heads, None if weights == "learned" else weights)


def _causal(section: config.CausalObjective, job: RunConfig, manifest: Manifest, _: Any) -> Head:
    return Causal(section.loss, event_weights(manifest))


def _masked(section: config.MaskedObjective, job: RunConfig, manifest: Manifest, _: Any) -> Head:
    return Masked(section.loss, event_weights(manifest))


def _skip_gram(
    section: config.SkipGramObjective, job: RunConfig, manifest: Manifest, _: Any
) -> Head:
    return SkipGram(section.loss, dim=job.model.dim, user_items=section.user_items)


def _attributes(
    section: config.AttributesObjective, job: RunConfig, manifest: Manifest, _: Any
) -> Head:
    labels = sum(manifest.item_attributes[name] for name in section.attributes)
    if labels > _LARGEST_LAYER:
        raise ConfigError(
            "too many attribute values to predict", where="pretrain.objective.attributes",
            value=f"{labels:,} values of {', '.join(section.attributes)}",
            rule=f"each has a row of a dense layer, at most {_LARGEST_LAYER:,}",
            fix="name attributes with fewer values",
        )  # fmt: skip
    return AttributePrediction(section.of, dim=job.model.dim, labels=labels)


def _next_item(section: config.NextItemTask, job: RunConfig, manifest: Manifest, _: Any) -> Head:
    kind = Masked if section.by == "masked" else Causal
    return kind(section.loss, event_weights(manifest, section.events))


def _rating(
    section: config.RatingTask, job: RunConfig, manifest: Manifest, device: torch.device
) -> Head:
    return Rating(
        section,
        manifest,
        dim=job.model.dim,
        user_attributes=job.model.user_attributes,
        device=device,
    )


def _click(
    section: config.ClickTask, job: RunConfig, manifest: Manifest, device: torch.device
) -> Head:
    check_events(manifest, section.positive or (), "positive")
    return Click(
        section,
        manifest,
        weights=event_weights(manifest),
        dim=job.model.dim,
        user_attributes=job.model.user_attributes,
        device=device,
    )


_HEADS: dict[type[config.Head], Callable[[Any, RunConfig, Manifest, torch.device], Head]] = {
    config.CausalObjective: _causal,
    config.MaskedObjective: _masked,
    config.SkipGramObjective: _skip_gram,
    config.AttributesObjective: _attributes,
    config.NextItemTask: _next_item,
    config.RatingTask: _rating,
    config.ClickTask: _click,
}
_LARGEST_LAYER = 200_000


def event_weights(manifest: Manifest, chosen: dict[str, float] | None = None) -> list[float]:
    """Weight of a target by code of its event; code 0 is an interaction without event.

    Args:
        chosen: weights by event, those not named are 0; None: those of prepare.events.

    Raises:
        ConfigError: an event that the log does not have.
    """
    if chosen is None:
        return [1.0, *manifest.events.values()]
    check_events(manifest, chosen, "events")
    return [0.0, *(chosen.get(event, 0.0) for event in manifest.events)]


def check_events(manifest: Manifest, names: Any, key: str) -> None:
    """Raise a ConfigError if the log has no such event."""
    for name in names:
        if name not in manifest.events:
            raise ConfigError(
                "no such event in the log", where=f"{key} of a task", value=name,
                rule=f"its events: {', '.join(manifest.events) or 'none'}",
                fix="name one of them, with the column named by prepare.source.columns.event",
            )  # fmt: skip


def catalogue_loss(job: RunConfig, stage: str) -> Loss | None:
    """The loss over the catalogue of a training stage; None where it has none."""
    losses = [getattr(head, "loss", None) for head in job.trainings()[stage].heads().values()]
    return next((loss for loss in losses if loss is not None), None)


def make_collate(
    job: RunConfig, folder: RunFolder, manifest: Manifest, training: Training
) -> Collate:
    """What makes the batches of a training stage, with the attribute tables that it reads."""
    unseen = None
    if job.model.item_attributes:
        # What pre-training has seen stays seen in what builds on it.
        first = next(iter(job.trainings()))
        counts = open_mix(job, first, folder, manifest).item_counts()
        unseen = np.append(False, counts == 0)
    return Collate(
        job.seed,
        Attributes.load(folder.prepare, "item", job.model.item_attributes),
        Attributes.load(folder.prepare, "user", job.model.user_attributes),
        Extras.of(training.heads().values(), manifest, folder.prepare, job.seed),
        unseen=unseen,
    )
