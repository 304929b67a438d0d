"""From the job file to the model and the batches of a training stage."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from p5dist.config import RunConfig
from p5dist.config.losses import Loss
from p5dist.config.train import Finetune, Training
from p5dist.data.attributes import Attributes
from p5dist.data.batch import Batch
from p5dist.data.jagged import Bools
from p5dist.data.manifest import Manifest
from p5dist.data.supplied import Supplied
from p5dist.errors import ConfigError
from p5dist.feed.batch_fields import BatchFields
from p5dist.feed.collate import Collate
from p5dist.feed.masking import Masking
from p5dist.feed.mix import open_mix
from p5dist.feed.views import Views
from p5dist.models.adapters import choose_trained, dense_parameters
from p5dist.models.backbone import Backbone
from p5dist.storage import Folder, RunFolder
from p5dist.tasks.module import TaskModule
from p5dist.tasks.task import Context, Offset, Task


class Model(nn.Module):
    """A backbone and the module of the objective or task of one training stage."""

    def __init__(self, backbone: Backbone, head: TaskModule) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """[K] losses of this worker's batch as sums."""
        sums: Tensor = self.head(self.backbone, batch)
        return sums


def build_model(job: RunConfig, stage: str, manifest: Manifest, device: torch.device) -> Model:
    """The model of a training stage; dense weights are drawn from its seed of training.

    Args:
        stage: ``pretrain`` or ``finetune/<name>``.
        device: of the tables; ``meta`` before sharding.

    Raises:
        ConfigError: the data does not fit a task.
    """
    training = job.trainings()[stage]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.training_seed)
        backbone = Backbone(
            job.model,
            manifest,
            max_length=job.feed.max_length,
            device=device,
            bidirectional=training.bidirectional,
        )
        assert isinstance(training.learned, Task)
        head = training.learned.build(Context(job, manifest, None), device)
        if isinstance(training, Finetune):
            choose_trained(backbone, training)
    if not head.reads_states:  # DDP waits for a gradient of every parameter that requires one
        for parameter in dense_parameters(backbone):
            parameter.requires_grad_(False)
    return Model(backbone, head)


def make_collate(
    job: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    training: Training,
    trained: Bools | None = None,
) -> Collate:
    """The collate function of a training stage, with the attribute tables that the model reads.

    Args:
        trained: [items] whether the row of item id i + 1 is trained; None: the items of the first
            training's interactions.

    Raises:
        ConfigError: two tasks hide different interactions.
    """
    unseen = None
    if job.model.item_attributes or job.model.item_vectors:
        if trained is None:
            first = next(iter(job.trainings()))
            trained = open_mix(job, first, folder, manifest).item_counts() > 0
        unseen = np.append(False, ~trained)
    masking, views, fields = _training_extras(job, folder.prepare, manifest, training)
    return Collate(
        job.training_seed,
        Attributes.load(folder.prepare, "item", job.model.item_attributes),
        Attributes.load(folder.prepare, "user", job.model.user_attributes),
        masking=masking,
        fields=fields,
        views=views,
        item_vectors=Supplied.open(
            folder.prepare, "item", job.model.item_vectors, manifest.items, manifest.item_vectors
        ),
        user_vectors=Supplied.open(
            folder.prepare, "user", job.model.user_vectors, manifest.users, manifest.user_vectors
        ),
        unseen=unseen,
    )


def task_of(job: RunConfig, stage: str, name: str) -> Task:
    """The task ``name`` of a training stage."""
    task = job.trainings()[stage].tasks()[name]
    assert isinstance(task, Task)
    return task


def offsets_of(
    job: RunConfig, stage: str, manifest: Manifest, prepare: Folder
) -> dict[str, Offset]:
    """By name of the task what is added to the predictions of its module."""
    found = {}
    for name, task in job.trainings()[stage].tasks().items():
        assert isinstance(task, Task)
        offset = task.offset(Context(job, manifest, prepare, name))
        if offset is not None:
            found[name] = offset
    return found


def catalogue_loss(job: RunConfig, stage: str) -> Loss | None:
    """The loss over the catalogue of a training stage; None if it has no such loss."""
    losses = (task.catalogue_loss for task in job.trainings()[stage].tasks().values())
    return next((loss for loss in losses if loss is not None), None)


def _training_extras(
    job: RunConfig, prepare: Folder, manifest: Manifest, training: Training
) -> tuple[Masking | None, Views | None, dict[str, BatchFields]]:
    masking: Masking | None = None
    views: Views | None = None
    fields = {}
    for name, task in training.tasks().items():
        assert isinstance(task, Task)
        context = Context(job, manifest, prepare, name)
        own = task.masking(context)
        if own is not None and masking is not None and own != masking:
            raise ConfigError(
                "two tasks hide different interactions of the same batch", where=name,
                rule="all tasks of a stage read the same states",
                fix="give both tasks the same masking, or train them in separate stages",
            )  # fmt: skip
        masking = masking or own
        made = task.make_views(context)
        if made is not None and views is not None and made != views:
            raise ConfigError(
                "two objectives make different views of the same batch", where=name,
                rule="all objectives of a stage read the same states",
                fix="give both the same settings of views, or keep one",
            )  # fmt: skip
        views = views or made
        added = task.batch_fields(context)
        if added is not None:
            fields[name] = added
    return masking, views, fields
