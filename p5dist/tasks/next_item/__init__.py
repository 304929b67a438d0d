"""Fine-tuning to the next item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat

from p5dist.config import RunConfig
from p5dist.config.losses import FullSoftmax, Loss
from p5dist.errors import DataError
from p5dist.tasks.masked.masking import Cloze
from p5dist.tasks.predictions import ChosenInteractions, NextInteractions, Predictions
from p5dist.tasks.task import Context, Labelled, check_events, check_targets, target_weights

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule


class NextItem(Labelled):
    """Rank the next item."""

    ranks = True
    kind: Literal["next_item"]
    by: Literal["causal", "masked"] = "causal"
    """causal: the loss is taken at every position, the encoder sees the past only; masked: every
    history is cut at a random item, drawn anew at each step, which is hidden and predicted
    (fine-tuning of BERT4Rec); for a model pre-trained with the masked objective."""
    events: dict[str, NonNegativeFloat] | None = None
    """Weight of the targets of each event; events that are not named are no targets. Left out: the
    weights of prepare.events."""
    loss: Loss = FullSoftmax()

    @property
    def sees(self) -> Literal["past", "both"]:
        return "both" if self.by == "masked" else "past"

    @property
    def hides(self) -> bool:
        return self.by == "masked"

    @property
    def own_parameters(self) -> bool:
        return False

    @property
    def catalogue_loss(self) -> Loss:
        return self.loss

    def check(self, job: RunConfig, key: str) -> None:
        if self.events is not None and job.prepare.source.columns.event is None:
            raise ValueError(
                f"{key} names events, but prepare.source.columns.event names no column"
            )

    def check_data(self, context: Context, key: str) -> None:
        targets = check_targets(context, key)
        if self.events is None:
            return
        check_events(context.manifest, self.events, f"{key}.events")
        chosen = [event for event, weight in self.events.items() if weight]
        if targets is not None and not any(targets.by_event.get(event) for event in chosen):
            raise DataError(
                "nothing to predict: no target has one of the chosen events",
                where=f"{key}.events", value=", ".join(chosen),
                rule="a target is a training interaction after another one of the same history; "
                f"by event there are: {targets.by_event or 'none'}",
                fix="name other events, or leave events out",
            )  # fmt: skip

    def masking(self, context: Context) -> Cloze | None:
        if self.by == "causal":
            return None
        return Cloze(0.0, 1.0, context.catalogue, context.job.training_seed)

    def batch_fields(self, context: Context) -> Predictions:
        chosen = ChosenInteractions if self.by == "masked" else NextInteractions
        weights = target_weights(context.manifest, self.events, self.labelled(context))
        return chosen(weights, ranks=True)

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.item_prediction import ItemPrediction

        return ItemPrediction(self.loss, context.name)
