"""Proves from the ledger of a stage that every history was trained on exactly once per epoch, at
the step that the order prescribes, even if workers were killed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.config import RunConfig
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.errors import RunFolderError
from p5dist.feed.mix import open_mix
from p5dist.feed.order import LaneOrder
from p5dist.feed.units import units
from p5dist.observe.ledger import LEDGER, attempts, committed
from p5dist.storage import Folder, RunFolder

_SHOWN = 20


@dataclass
class Audit:
    """The result of the audit of a stage, up to its latest checkpoint."""

    stage: str
    steps: int
    """Steps up to the latest checkpoint."""
    epochs: int
    """Whole epochs of the run's own data within ``steps``."""
    trained: int
    """Histories trained on, counted in every epoch."""
    attempts: int
    """Starts of the workers that wrote ledger files."""
    data: list[str] = field(default_factory=list)
    """Names of the other data sets of the mixture."""
    lost: list[dict[str, int]] = field(default_factory=list)
    """The first rows (epoch, step, row) that the order prescribes and no worker trained on."""
    surplus: list[dict[str, int]] = field(default_factory=list)
    """The first rows (epoch, step, row) that were trained on twice or at the wrong step, or that
    are in no data set."""

    @property
    def exact(self) -> bool:
        """Whether no row is lost and no row is surplus."""
        return not self.lost and not self.surplus

    def text(self) -> str:
        """The audit as text for the terminal."""
        line = (
            f"{self.stage}: {self.steps:,} steps, {self.epochs:,} whole epochs, {self.trained:,} "
            f"histories in {self.attempts} start{'s' if self.attempts != 1 else ''} of the workers"
        )
        if self.data:
            line += f", mixed with {', '.join(self.data)}"
        if self.exact:
            return f"{line}: every row exactly once per epoch, at its step"
        lines = [line]
        for name, found in (("lost", self.lost), ("twice or at a wrong step", self.surplus)):
            lines += [
                f"  {name}: epoch {x['epoch']}, step {x['step']}, row {x['row']}" for x in found
            ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The audit as plain data."""
        return {"exact": self.exact, **asdict(self)}


def audit(job: RunConfig, stage: str) -> Audit:
    """Audit a training stage of a run, finished or not.

    Raises:
        RunFolderError: the stage has no ledger.
        CheckpointError: the stage has no complete checkpoint yet.
    """
    folder = RunFolder.of_job(job)
    stage_folder = folder.training(stage)
    found = attempts(stage_folder)
    if not found:
        raise RunFolderError(
            "there is no ledger to audit", where=str(stage_folder / LEDGER),
            fix=f"set {stage.replace('/', '.')}.ledger: true before the stage runs",
        )  # fmt: skip
    steps = Checkpoints(stage_folder / "checkpoints").require().step
    mix = open_mix(job, stage, folder, Manifest.load(folder.prepare))
    names = [one.name for one in mix.sets[1:]]
    result = Audit(stage, steps, mix.own.order.locate(steps)[0], 0, len(found), names)
    for number, one in enumerate(mix.sets):
        first_row = sum(before.manifest.histories for before in mix.sets[:number])
        last_row = first_row + one.manifest.histories
        if one is mix.sets[-1]:
            last_row = np.iinfo(np.int64).max  # the last set also gets the rows of no data set
        _audit_one(result, stage_folder, one.order, steps, (first_row, last_row))
    return result


def _audit_one(
    result: Audit, stage_folder: Folder, order: LaneOrder, steps: int, numbers: tuple[int, int]
) -> None:
    """Audit the rows ``numbers[0]`` … ``numbers[1] - 1``, which belong to one data set."""
    epoch = 0
    while (first := order.steps_before(epoch)) < steps:
        last = min(order.steps_before(epoch + 1), steps)
        step, row = committed(stage_folder, first, last)
        its = (row >= numbers[0]) & (row < numbers[1])
        step, row = step[its], row[its]
        wanted_step, wanted_row = _prescribed(order, first, last)
        if last == order.steps_before(epoch + 1):
            # Independent of the order's own lanes: a whole epoch has every row of the data once.
            assert np.array_equal(np.sort(wanted_row), _all_rows(order)), "the order loses rows"
        result.trained += len(row)
        for of, there, beside in (
            (result.lost, (wanted_step, wanted_row), (step, row)),
            (result.surplus, (step, row), (wanted_step, wanted_row)),
        ):
            for s, r in _surplus(there, beside)[: _SHOWN - len(of)]:
                of.append({"epoch": epoch, "step": int(s), "row": int(r)})
        epoch += 1


def _prescribed(order: LaneOrder, first: int, last: int) -> tuple[Ints, Ints]:
    """Steps and rows [n] that the order prescribes for the steps ``first`` … ``last - 1``."""
    steps, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for unit in units(order, rank=0, world_size=1, start=first, stop=last, unit_rows=1 << 20):
        steps.append(unit.steps(order))
        rows.append(unit.rows(order)[0])
    step, row = np.concatenate(steps), np.concatenate(rows)
    taken = (step >= first) & (step < last)
    return step[taken], row[taken]


def _all_rows(order: LaneOrder) -> Ints:
    numbers = (order.groups.numbers(group) for group in range(len(order.groups)))
    return np.concatenate([np.zeros(0, np.int64), *numbers])


def _surplus(these: tuple[Ints, Ints], those: tuple[Ints, Ints]) -> Ints:
    """[n, 2] (step, row) that are in ``these`` more often than in ``those``."""
    pairs = np.concatenate([np.stack(these, 1), np.stack(those, 1)])
    sign = np.repeat([1, -1], [len(these[0]), len(those[0])])
    distinct, where = np.unique(pairs, axis=0, return_inverse=True)
    return distinct[np.bincount(where.reshape(-1), sign, len(distinct)) > 0]
