"""What the trained models of a run have seen of people, and how to be rid of it.

The order of training is a pure function of seed and data, and rows that were emptied stay in their
places. So the step that first trains on somebody is known, a checkpoint from before it has learned
nothing from the person, and training that goes on from there gives the model that training anew
without the person gives. (Without such an order, this needs models of parts of the data: Bourtoule
et al. 2021, SISA.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.config import RunConfig
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.feed.mix import open_mix
from p5dist.feed.order import LaneOrder
from p5dist.observe.stages import marker
from p5dist.storage import Folder, RunFolder


@dataclass(frozen=True)
class Seen:
    """What one training stage has seen."""

    stage: str
    steps: int
    """Steps of the newest checkpoint."""
    first: int | None
    """Steps before the one that first trains on one of the people; None: none has, but the stage
    may start from weights of one that has."""
    before: int | None
    """Step of the newest checkpoint that has not seen them; None: there is none."""
    starts_from: str | None
    """Stage or run whose weights the stage starts from."""

    @property
    def itself(self) -> bool:
        """Whether the stage has trained on them."""
        return self.first is not None and self.first < self.steps

    def as_json(self) -> dict[str, Any]:
        """By name."""
        return asdict(self)


def seen_by(
    job: RunConfig, folder: RunFolder, manifest: Manifest, rows: Ints, records: list[dict[str, Any]]
) -> list[Seen]:
    """The training stages that have checkpoints, in order.

    Args:
        rows: numbers of the histories of the people that have training interactions.
        records: what was noted of people who left before: their rows are empty now.
    """
    found = []
    for stage, training in job.trainings().items():
        checkpoints = Checkpoints(folder.training(stage) / "checkpoints")
        latest = checkpoints.latest()
        if latest is None:
            continue
        order = open_mix(job, stage, folder, manifest).own.order
        known = [first_step(order, rows), *_noted(stage, records)]
        first = min((step for step in known if step is not None), default=None)
        steps = [c.step for c in checkpoints.all() if first is None or c.step <= first]
        before = max(steps) if steps else None
        found.append(Seen(stage, latest.step, first, before, training.init_from))
    return found


def _noted(stage: str, records: list[dict[str, Any]]) -> list[int | None]:
    """The first steps of a stage that had seen people who left since it was last trained again."""
    found: list[int | None] = []
    for record in records:
        if stage in record["train_again"]:
            found = []
        else:
            found += [one["first"] for one in record["models"] if one["stage"] == stage]
    return found


def _starts_from(seen: Seen, job: RunConfig, folder: RunFolder, discarded: list[str]) -> bool:
    """Whether a stage starts from the weights of one of these stages, of its run or another one."""
    start = seen.starts_from
    if start is None:
        return False
    place = folder.training(start) if start in job.trainings() else Folder.open(start)
    return any(f"{place}/".startswith(f"{one}/") for one in discarded)


def first_step(order: LaneOrder, rows: Ints) -> int | None:
    """Steps before the one that first takes one of ``rows``; None if no step does."""
    epoch, wanted = order.of_epoch(0), np.sort(rows)
    starts = [
        int(start) + int(np.flatnonzero(taken)[0])
        for group, start in zip(epoch.group, epoch.start, strict=True)
        if (taken := np.isin(order.rows_of_group(0, int(group)), wanted)).any()
    ]
    return min(starts) // order.rows_per_lane if starts else None


def untrain(
    job: RunConfig, folder: RunFolder, manifest: Manifest, seen: list[Seen], discarded: list[str]
) -> list[str]:
    """Discard every checkpoint that has seen the people, and what was computed from it.

    Args:
        discarded: folders of the training stages of all runs that are to be trained again; grows.

    Returns:
        The stages of this run that are to be trained again.
    """
    again: list[str] = []
    for one in seen:
        inherited = _starts_from(one, job, folder, discarded)
        if not (one.itself or inherited):
            continue
        again.append(one.stage)
        place = folder.training(one.stage)
        discarded.append(str(place))
        marker(folder, one.stage).remove()
        based = any(task.has_base for task in job.trainings()[one.stage].tasks().values())
        # A base is fitted on their ratings too; a period takes no empty rows, so that its order
        # has changed; a private training has other noise now, or the noise would cancel out.
        private = job.trainings()[one.stage].private
        anew = inherited or based or private or manifest.since is not None
        if anew or one.before is None:
            place.remove()
            continue
        checkpoints = Checkpoints(place / "checkpoints")
        for checkpoint in checkpoints.all():
            if checkpoint.step > one.before:
                checkpoints.discard(checkpoint.step)
        (place / "vectors").remove()
    if again:
        for name in folder.prepare.children():
            if name.startswith("biases-"):
                (folder.prepare / name).remove()
        for stage in ("evaluate", "recommend"):
            marker(folder, stage).remove()
            (folder.root / stage).remove()
        folder.report.remove()
    return again
