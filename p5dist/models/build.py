"""From the job file to a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from p5dist.batch import Batch
from p5dist.config.heads import RatingTask
from p5dist.config.losses import FullSoftmax, SampledSoftmax
from p5dist.config.run import RunConfig
from p5dist.config.train import Finetune, Pretrain
from p5dist.manifest import Manifest
from p5dist.models.head import Head
from p5dist.models.objectives.causal import Causal
from p5dist.models.recommender import Recommender
from p5dist.models.tasks.rating import Rating


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
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        backbone = Recommender(job.model, manifest, max_length=job.feed.max_length, device=device)
        section = job.trainings()[stage]
        head: Head
        if isinstance(section, Finetune) and isinstance(section.task, RatingTask):
            head = Rating(
                section.task,
                manifest,
                dim=job.model.dim,
                user_attributes=job.model.user_attributes,
                device=device,
            )
        else:
            head = Causal()
    return Model(backbone, head)


def catalogue_loss(job: RunConfig, stage: str) -> FullSoftmax | SampledSoftmax | None:
    """The loss over the catalogue of a training stage; None where it has none."""
    section = job.trainings()[stage]
    if isinstance(section, Pretrain):
        return section.objective.loss
    if isinstance(section, Finetune) and not isinstance(section.task, RatingTask):
        return section.task.loss
    return None
