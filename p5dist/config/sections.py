"""What the job file asks of the sections that are chosen by kind.

The classes below :mod:`p5dist.tasks` and :mod:`p5dist.models.encoders`, and those of other
packages, derive from these and add what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from p5dist.config.base import Column, Section
from p5dist.config.losses import Loss


class Metric(BaseModel):
    """A number that a task is judged by."""

    label: str
    """For people, such as ``RMSE``."""
    higher_is_better: bool
    compared: bool = True
    """Whether a better value is a better model; not so where it only describes the predictions."""


class TaskSection(Section):
    """An objective of pre-training or a task of fine-tuning, as the job file knows it."""

    kind: str
    ranks: ClassVar[bool] = False
    """Whether its model ranks the items of the catalogue."""
    metrics: ClassVar[Mapping[str, Metric]] = {}
    """By name, the metrics of its predictions; none where it only ranks, or is not evaluated."""

    @property
    def sees(self) -> Literal["past", "both"] | None:
        """Whether the encoder sees the past of an interaction only, or both sides of a hidden one;
        None where the task does not mind."""
        return "past"

    @property
    def own_parameters(self) -> bool:
        """Whether it has parameters beside those of the backbone."""
        return True

    @property
    def reads_whole_users(self) -> bool:
        """Whether its batch fields need all training items of a user, ``Histories.had``."""
        return False

    @property
    def hides(self) -> bool:
        """Whether it hides interactions from the encoder."""
        return False

    @property
    def shuffled(self) -> bool:
        """Whether it takes a history as a set and not as a sequence."""
        return False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of a history that it reads where the log has them."""
        return ("rating", "event")

    @property
    def catalogue_loss(self) -> Loss | None:
        """The loss over the catalogue, whose candidates are drawn for the whole batch."""
        return None

    @property
    def loss_weights(self) -> Mapping[str, float] | Literal["learned"] | None:
        """Factors on the losses of :meth:`parts`; None where it is one task."""
        return None

    def parts(self) -> Mapping[str, TaskSection]:
        """The tasks that this one is made of, by name; itself under the empty name."""
        return {"": self}

    def check(self, job: Any, key: str) -> None:
        """Whether the task fits the job.

        Args:
            job: the whole job, a RunConfig.
            key: key path of the task in the job file.

        Raises:
            ValueError: it does not; the message begins with ``key``.
        """


class EncoderSection(Section):
    """An encoder, as the job file knows it."""

    kind: str
    sees_both_sides: ClassVar[bool] = False
    """Whether the encoder can see both sides of an interaction, as a masked objective needs."""
    adaptable: ClassVar[bool] = True
    """Whether the encoder has linear layers, which low-rank adapters stand beside."""
    without_columns: ClassVar[str] = "name the column, or choose another encoder"
    """What a user changes where the log lacks one of :attr:`columns`."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of a history that the encoder reads beside what :class:`.model.Inputs` adds."""
        return ()

    def check(self, dim: int) -> None:
        """Whether the encoder can have the width ``dim``.

        Raises:
            ValueError: it cannot.
        """
