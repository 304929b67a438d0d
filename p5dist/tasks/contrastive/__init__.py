"""Contrastive pre-training: views of one history are alike, views of others are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from p5dist.errors import DataError
from p5dist.tasks.contrastive.fields import LastItems
from p5dist.tasks.contrastive.views import RandomViews
from p5dist.tasks.task import Context, Task

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule

View = Literal["crop", "drop", "reorder", "dropout"]
Share = Annotated[float, Field(gt=0, le=1)]


class Contrastive(Task):
    """Of two views of each history, each is to be told from the views of all other histories of the
    step by the cosine of their last states (CL4SRec, Xie et al. 2022; NT-Xent, Chen et al. 2020).

    A view leaves out or moves interactions, or differs by dropout alone (DuoRec, Qiu et al. 2022).
    With ``same_item: positive`` histories that end with the same item are alike as well (supervised
    contrastive loss, Khosla et al. 2020, as DuoRec's second part).
    """

    kind: Literal["contrastive"]
    views: Annotated[tuple[View, ...], Field(min_length=1)] = ("crop", "drop", "reorder")
    """Ways to change a history, of which one is drawn for each view. crop: a run of neighbours is
    left; drop: single interactions are left out; reorder: a run of neighbours is shuffled; dropout:
    nothing is changed."""
    crop: Share = 0.6
    """Share of a history that is left."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Probability that an interaction is left out."""
    reorder: Share = 0.6
    """Share of a history that is shuffled."""
    temperature: PositiveFloat = 0.2
    """Cosines are divided by it."""
    same_item: Literal["negative", "ignored", "positive"] = "ignored"
    """What histories are to each other that end with the same item."""

    @model_validator(mode="after")
    def _each_once(self) -> Contrastive:
        if len(set(self.views)) < len(self.views):
            raise ValueError("views names a way twice: remove one")
        return self

    @property
    def sees(self) -> None:
        return None

    @property
    def own_parameters(self) -> bool:
        return False

    def check_data(self, context: Context, key: str) -> None:
        if context.manifest.histories < 2:
            raise DataError(
                "nothing to tell apart: there is one history", where=key,
                value=context.manifest.histories, rule=f"{key} compares histories",
                fix="prepare more data",
            )  # fmt: skip

    def make_views(self, context: Context) -> RandomViews:
        return RandomViews(
            self.views, self.crop, self.drop, self.reorder, context.job.training_seed
        )

    def batch_fields(self, context: Context) -> LastItems:
        return LastItems()

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.contrastive.module import ContrastiveModule

        training = context.job.pretrain
        assert training is not None, "an objective is of pre-training"
        return ContrastiveModule(
            context.name,
            temperature=self.temperature,
            same_item=self.same_item,
            lanes=context.job.feed.lanes,
            batch_size=training.batch_size,
        )
