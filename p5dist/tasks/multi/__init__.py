"""Several objectives or tasks at once, over one backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from p5dist.config.registry import OBJECTIVES, TASKS, Chosen
from p5dist.config.sections import TaskSection
from p5dist.tasks.task import Context, Task

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.module import TaskModule

Weights = dict[str, PositiveFloat] | Literal["learned"]
Parts = Mapping[str, TaskSection]


class _Several(Task):
    """Base class of several objectives and of several tasks."""

    @property
    def labelled_users(self) -> float:
        return max(part.labelled_users for part in self.parts().values())

    @property
    def own_parameters(self) -> bool:
        return any(part.own_parameters for part in self.parts().values())

    def build(self, context: Context, device: torch.device) -> TaskModule:
        from p5dist.tasks.multi.module import MultiModule

        modules = {}
        for name, part in self.parts().items():
            assert isinstance(part, Task)
            own = Context(context.job, context.manifest, context.prepare, name)
            modules[name] = part.build(own, device)
        weights = self.loss_weights
        assert weights is not None
        return MultiModule(modules, None if weights == "learned" else dict(weights))


class MultiObjective(_Several):
    """Several objectives at once."""

    kind: Literal["multi"]
    objectives: Annotated[
        dict[str, Annotated[TaskSection, Chosen(OBJECTIVES.without("multi"))]], Field(min_length=1)
    ]
    weights: Weights = {}
    """Factor on each loss, 1 if not named; learned: from the uncertainty of each loss (Kendall et
    al. 2018)."""

    @model_validator(mode="after")
    def _fit(self) -> MultiObjective:
        _check_parts(self.objectives, self.weights)
        hiding = [name for name, part in self.objectives.items() if part.hides]
        past = [name for name, part in self.objectives.items() if part.sees == "past"]
        if hiding and past:
            raise ValueError(
                f"'{hiding[0]}' needs an encoder that sees both sides, '{past[0]}' an encoder "
                "that sees the past only: keep one of the two objectives"
            )
        for name, part in self.objectives.items():
            if part.sees == "both" and not hiding:
                raise ValueError(f"'{name}' needs masked items: add a masked objective")
        return self

    @property
    def loss_weights(self) -> Weights:
        return self.weights

    def parts(self) -> Parts:
        return self.objectives


class MultiTask(_Several):
    """Several tasks at once over one encoder."""

    kind: Literal["multi"]
    tasks: Annotated[
        dict[str, Annotated[TaskSection, Chosen(TASKS.without("multi"))]], Field(min_length=1)
    ]
    weights: Weights = {}
    """As for several objectives."""

    @model_validator(mode="after")
    def _fit(self) -> MultiTask:
        _check_parts(self.tasks, self.weights)
        for name, task in self.tasks.items():
            if task.shuffled:
                raise ValueError(
                    f"'{name}' shuffles histories, but several tasks read them in the order of "
                    f"time: set tasks.{name}.history to time"
                )
        if len({task.sees for task in self.tasks.values()} - {None}) > 1:
            raise ValueError(
                "some tasks need an encoder that sees both sides, other tasks an encoder that sees "
                "the past only: set 'by' of next_item to causal"
            )
        return self

    @property
    def loss_weights(self) -> Weights:
        return self.weights

    def parts(self) -> Parts:
        return self.tasks


def _check_parts(parts: Parts, weights: Weights) -> None:
    """Raise ValueError unless weights name parts, names are valid, and all parts with a loss over
    the catalogue have the same loss."""
    if isinstance(weights, dict):
        for name in weights:
            if name not in parts:
                raise ValueError(f"weights names '{name}', not one of: {', '.join(parts)}")
    for name in parts:
        if not name or "/" in name:
            raise ValueError(f"'{name}' is no name: a name is not empty and has no '/'")
    losses = {n: part.catalogue_loss for n, part in parts.items() if part.catalogue_loss}
    first = next(iter(losses), "")
    for name, loss in losses.items():
        if loss != losses[first]:
            raise ValueError(
                f"'{name}' and '{first}' have different losses over the catalogue, but candidates "
                "are drawn once for the whole batch: give both the same loss"
            )
