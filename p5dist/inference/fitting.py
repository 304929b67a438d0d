"""Fitting on training interactions: baselines, and the item-to-item counts of the ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.data.users import Users
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.ranking.popularity import Popularity
from p5dist.storage import RunFolder
from p5dist.tasks.build import task_of
from p5dist.tasks.evaluation import Evaluation
from p5dist.tasks.task import Context

COUNTED = 20_000_000
"""Approximate limit of the training interactions that the baselines, except popularity, and the
item-to-item counts are fitted on."""
_ROWS = 65_536  # read at once


@dataclass(frozen=True)
class Fitted:
    """Baselines and counts fitted on training interactions."""

    popularity: Popularity
    item_to_item: ItemToItem
    tasks: dict[str, Any] = field(default_factory=dict)
    """By path of a predicting task, the baselines that its evaluation fitted."""
    interactions: int = 0
    """Number of interactions that everything except popularity was fitted on."""


def fit(job: RunConfig, folder: RunFolder, manifest: Manifest, tasks: bool) -> Fitted:
    """Read the training interactions and fit.

    Args:
        tasks: also fit the baselines of the predicting tasks.
    """
    reader = ShardReader(folder.prepare, manifest, job.history_columns())
    users = list(_training_users(reader))
    by_user = [_training(part.histories) for part in users]
    by_session = by_user
    if job.prepare.session_gap is not None:
        by_session = [_training(part.sessions()) for part in users]
    catalogue = Catalogue.read(folder.prepare, manifest)
    count = (folder.prepare / "vocabulary" / "item.parquet").read_table([c.COUNT])
    evaluations = task_evaluations(job, folder, manifest) if tasks else {}
    return Fitted(
        popularity=Popularity(count[c.COUNT].to_numpy(), catalogue),
        item_to_item=ItemToItem.fit(by_session, catalogue),
        tasks={path: evaluation.fit(by_user) for path, evaluation in evaluations.items()},
        interactions=sum(len(part.item) for part in by_user),
    )


def task_evaluations(
    job: RunConfig, folder: RunFolder, manifest: Manifest
) -> dict[str, Evaluation]:
    """The evaluation of every predicting task by path (see RunConfig.predicting_tasks)."""
    found = {}
    for path, (stage, name) in job.predicting_tasks().items():
        evaluation = task_of(job, stage, name).evaluation(
            Context(job, manifest, folder.prepare, name)
        )
        if evaluation is not None:
            found[path] = evaluation
    return found


def _training_users(reader: ShardReader) -> Iterator[Users]:
    """All users, or the first ones in the order of the shards (a random sample, since users are
    spread by a hash) with about COUNTED training interactions."""
    manifest = reader.manifest
    share = max(1.0, manifest.rows_by_split["train"] / COUNTED)
    wanted = max(1, int(manifest.histories / share))
    read = 0
    for portion in reader.portions(_ROWS):
        if read >= wanted:
            return
        yield reader.users(portion)
        read += portion.rows


def _training(histories: Histories) -> Histories:
    return histories.where(histories.split == c.TRAIN)
