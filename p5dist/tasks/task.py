"""The contract of objectives and tasks: one class holds everything about an objective or task.

A subclass adds its settings as fields and overrides the methods that it needs. It is imported
whenever a job file names it, so it must import PyTorch inside :meth:`Task.build` and other methods
only. A task of another package is named ``kind: package.module:Class`` or registered as an entry
point (see :mod:`p5dist.config.registry`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from p5dist.config import RunConfig
from p5dist.config.base import Column
from p5dist.config.sections import Metric, TaskSection
from p5dist.data.catalogue import Catalogue
from p5dist.data.events import check_events
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints
from p5dist.data.labelled import LabelledUsers
from p5dist.data.manifest import Manifest, Targets
from p5dist.errors import ConfigError, DataError
from p5dist.feed.batch_fields import BatchFields
from p5dist.feed.masking import Masking
from p5dist.feed.views import Views
from p5dist.storage import Folder
from p5dist.tasks.predictions import TargetWeights

if TYPE_CHECKING:
    import torch

    from p5dist.tasks.evaluation import Evaluation
    from p5dist.tasks.module import TaskModule

__all__ = [
    "Context",
    "Labelled",
    "Metric",
    "Offset",
    "Task",
    "check_columns",
    "check_events",
    "check_targets",
    "target_weights",
]


@dataclass(frozen=True)
class Context:
    """The inputs from which a task builds its parts."""

    job: RunConfig
    manifest: Manifest
    prepare: Folder | None
    """The prepare folder; None if only sizes matter (``p5dist plan``)."""
    name: str = ""
    """Name of the task in its stage; empty if the stage has one task."""

    @property
    def folder(self) -> Folder:
        """The prepare folder, which must be there."""
        assert self.prepare is not None, "batches and evaluations need prepared data"
        return self.prepare

    @property
    def catalogue(self) -> Catalogue:
        """The items of the prepared data."""
        return Catalogue.read(self.folder, self.manifest)


class Offset(Protocol):
    """A prediction without training that a module learns to improve."""

    def predict(self, histories: Histories, owner: Ints, item: Ints) -> Floats:
        """[E] for item id ``item[e]`` by the user of history ``owner[e]``."""
        ...


class Task(TaskSection):
    """An objective or a task: a subclass defines :meth:`build`, and :meth:`evaluation` if it has
    metrics."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.metrics and cls.evaluation is Task.evaluation:
            raise TypeError(
                f"{cls.__name__} names metrics, but defines no evaluation that measures them"
            )

    def masking(self, context: Context) -> Masking | None:
        """The interactions that the encoder does not see in training; None: it sees all."""
        return None

    def make_views(self, context: Context) -> Views | None:
        """Further histories that the encoder reads in training; None: no others."""
        return None

    def batch_fields(self, context: Context) -> BatchFields | None:
        """The extra fields of a batch in training; None: no extra fields."""
        return None

    def check_data(self, context: Context, key: str) -> None:
        """Check that the prepared data has something to learn from; asked once, before workers are
        started.

        Args:
            context: with the prepare folder.
            key: key path of the task in the job file.

        Raises:
            DataError: there is nothing to predict (see :func:`check_targets`).
            ConfigError: the data does not fit the settings.
        """

    def prepare(self, context: Context) -> None:
        """Write what workers and scoring processes read beside the prepared data; called once
        before workers are started.

        Args:
            context: with the prepare folder.
        """

    def offset(self, context: Context) -> Offset | None:
        """What is added to the predictions of the module; None: nothing."""
        return None

    @abstractmethod
    def build(self, context: Context, device: torch.device) -> TaskModule:
        """The module: losses as sums, their counts, predictions.

        Args:
            device: of embedding tables; ``meta`` before sharding.

        Raises:
            ConfigError: the data does not fit the task.
        """

    def evaluation(self, context: Context) -> Evaluation | None:
        """The evaluation of the predictions; None for a task that only ranks, or is not
        evaluated."""
        return None


class Labelled(Task):
    """A task that learns from labels, which may be there for some users only."""

    labels: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the users whose interactions are targets in training, chosen by a hash of seed and
    user; the users of a smaller share are among those of a larger one. Their whole histories are
    the input. 1: all users."""

    @property
    def labelled_users(self) -> float:
        return self.labels

    def labelled(self, context: Context) -> LabelledUsers | None:
        """The users with labels; None: all."""
        return None if self.labels == 1 else LabelledUsers(self.labels, context.job.seed)


def check_targets(context: Context, key: str) -> Targets | None:
    """The training interactions that follow another one in their history, for a task that predicts
    the next interaction or hidden ones; None if the manifest does not count them.

    Raises:
        DataError: there is none.
        ConfigError: histories are cut to one interaction.
    """
    if context.job.feed.max_length < 2:
        raise ConfigError(
            "nothing to predict: histories are cut to one interaction", where="feed.max_length",
            value=context.job.feed.max_length, rule=f"{key} needs at least two", fix="raise it",
        )  # fmt: skip
    manifest = context.manifest
    if manifest.targets is not None and not manifest.targets.total:
        train = manifest.rows_by_split["train"]
        raise DataError(
            "nothing to predict: every history has at most one training interaction", where=key,
            value=f"{train:,} training interactions in {manifest.histories:,} histories",
            rule=f"{key} predicts an interaction from others of the same history",
            fix="prepare longer histories (prepare.session_gap, prepare.max_length), a split that "
            "leaves more for training (prepare.split), or more data",
        )  # fmt: skip
    return manifest.targets


def check_columns(job: RunConfig, key: str, *names: Column) -> None:
    """Raise ValueError if the log lacks a column that the task ``key`` requires."""
    nouns = {"rating": "ratings", "event": "events", "timestamp": "times"}
    for name in names:
        if getattr(job.prepare.source.columns, name) is None:
            raise ValueError(
                f"{key} needs {nouns[name]}, but prepare.source.columns.{name} names no column"
            )


def target_weights(
    manifest: Manifest,
    chosen: Mapping[str, float] | None = None,
    labelled: LabelledUsers | None = None,
) -> TargetWeights:
    """Weights of targets by event and user; 0 before the time from which on the data trains.

    Args:
        chosen: weight of each event, 0 for events that are not named; None: the weights of
            prepare.events.
        labelled: the users with labels; None: all.
    """
    if chosen is None:
        by_event = [1.0, *manifest.events.values()]
    else:
        by_event = [0.0, *(chosen.get(event, 0.0) for event in manifest.events)]
    return TargetWeights(by_event, labelled, manifest.since)
