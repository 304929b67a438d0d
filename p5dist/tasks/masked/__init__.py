"""Masked pre-training (BERT4Rec): predict hidden items from both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from p5dist.config.losses import FullSoftmax, Loss
from p5dist.tasks.masked.masking import Cloze
from p5dist.tasks.predictions import ChosenInteractions
from p5dist.tasks.task import Context, Task, check_targets, target_weights

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule


class Masked(Task):
    """Predict hidden items from both sides (cloze, BERT4Rec, Sun et al. 2019). Of the chosen
    positions 80 % are hidden, 10 % show another item, 10 % stay (Devlin et al. 2019)."""

    ranks = True
    kind: Literal["masked"]
    probability: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Probability that a position is chosen; if no position of a history is drawn, its last is
    chosen."""
    last_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the histories of a step that are cut at a random item and hide only this last item,
    as ranking hides the next item."""
    loss: Loss = FullSoftmax()

    @property
    def sees(self) -> Literal["both"]:
        return "both"

    @property
    def hides(self) -> bool:
        return True

    @property
    def own_parameters(self) -> bool:
        return False

    @property
    def catalogue_loss(self) -> Loss:
        return self.loss

    def check_data(self, context: Context, key: str) -> None:
        check_targets(context, key)

    def masking(self, context: Context) -> Cloze:
        seed = context.job.training_seed
        return Cloze(self.probability, self.last_share, context.catalogue, seed)

    def batch_fields(self, context: Context) -> ChosenInteractions:
        return ChosenInteractions(target_weights(context.manifest), ranks=True)

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.item_prediction import ItemPrediction

        return ItemPrediction(self.loss, context.name)
