"""Base classes of the sections that are chosen by kind, as the job file uses them.

The classes in :mod:`p5dist.tasks`, :mod:`p5dist.models.encoders` and other packages derive from
these classes and add the code that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from p5dist.config.base import Column, Section
from p5dist.config.losses import Loss


class Metric(BaseModel):
    """A metric of the predictions of a task."""

    label: str
    """Display name, such as ``RMSE``."""
    higher_is_better: bool
    compared: bool = True
    """Whether the metric is compared with baselines; false if it only describes the
    predictions."""


class TaskSection(Section):
    """An objective of pre-training or a task of fine-tuning, as the job file knows it."""

    kind: str
    ranks: ClassVar[bool] = False
    """Whether the trained model ranks the items of the catalogue."""
    metrics: ClassVar[Mapping[str, Metric]] = {}
    """Metrics of the predictions by name; empty if the task only ranks, or is not evaluated."""

    @property
    def sees(self) -> Literal["past", "both"] | None:
        """Which encoder the task needs: ``past``, the state of an interaction sees earlier
        interactions only; ``both``, it sees both sides; None, the task works with either."""
        return "past"

    @property
    def own_parameters(self) -> bool:
        """Whether the task has parameters outside the backbone."""
        return True

    @property
    def reads_states(self) -> bool:
        """Whether the task reads the states of the encoder."""
        return True

    @property
    def has_base(self) -> bool:
        """Whether the task adds to a prediction that needs no training."""
        return False

    @property
    def labelled_users(self) -> float:
        """Share of the users whose histories have something to learn from."""
        return 1.0

    @property
    def own_tables(self) -> bool:
        """Whether the task has embedding tables outside the backbone."""
        return False

    @property
    def reads_user_attributes(self) -> bool:
        """Whether the task reads model.user_attributes."""
        return False

    @property
    def item_attributes(self) -> tuple[str, ...]:
        """Attributes of items (names under prepare.items.attributes) that the task itself reads."""
        return ()

    @property
    def reads_whole_users(self) -> bool:
        """Whether the batch fields need all training items of a user, ``Histories.had``."""
        return False

    @property
    def hides(self) -> bool:
        """Whether the task hides interactions from the encoder."""
        return False

    @property
    def shuffled(self) -> bool:
        """Whether the task reads a history as a set instead of a sequence."""
        return False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of a history that the task reads if the log has them."""
        return ("rating", "event")

    @property
    def catalogue_loss(self) -> Loss | None:
        """The loss over the catalogue, whose candidates are drawn for the whole batch."""
        return None

    @property
    def not_private(self) -> str | None:
        """Why the loss of a user depends on interactions of other users, and the fix, as the end of
        a sentence; None: it does not, if the batch has no other user."""
        drawn = () if self.catalogue_loss is None else self.catalogue_loss.drawn_from_log
        if not drawn:
            return None
        return (
            f"loss.distribution {' and '.join(drawn)} draws negatives by the interactions of all "
            "users: use uniform, or loss {kind: softmax}"
        )

    @property
    def loss_weights(self) -> Mapping[str, float] | Literal["learned"] | None:
        """Factors on the losses of :meth:`parts`; None for a single task."""
        return None

    def parts(self) -> Mapping[str, TaskSection]:
        """The tasks that a multi-task consists of, by name; a single task is its only part, under
        the empty name."""
        return {"": self}

    def check(self, job: Any, key: str) -> None:
        """Check that the task fits the job.

        Args:
            job: the whole job, a RunConfig.
            key: key path of the task in the job file.

        Raises:
            ValueError: the task does not fit; the message begins with ``key``.
        """


class EncoderSection(Section):
    """An encoder, as the job file knows it."""

    kind: str
    sees_both_sides: ClassVar[bool] = False
    """Whether the encoder can see both sides of an interaction, as a masked objective needs."""
    adaptable: ClassVar[bool] = True
    """Whether the encoder has linear layers, to which low-rank adapters can be added."""
    without_columns: ClassVar[str] = "name the column, or choose another encoder"
    """The fix shown to the user if the log lacks one of :attr:`columns`."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of a history that the encoder itself reads, besides the columns of
        :class:`.model.Inputs`."""
        return ()

    def check(self, dim: int) -> None:
        """Check that the encoder can have the width ``dim``.

        Raises:
            ValueError: the width is not possible.
        """
