"""Where the weights of a stage start: a trained stage of this run or of another one.

Tensors are matched by name. Of another run with another vocabulary, rows of tables are carried over
by their external ids (see :mod:`p5dist.train.carried`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from p5dist.checkpoint.checkpoints import MARKER, Checkpoint, Checkpoints
from p5dist.checkpoint.pieces import AVERAGE, State
from p5dist.config import RunConfig, parse_job
from p5dist.data import columns as c
from p5dist.data.jagged import Bools, Ints
from p5dist.data.labels import AttributeLabels
from p5dist.data.manifest import MANIFEST
from p5dist.data.trained import read_trained
from p5dist.errors import CheckpointError
from p5dist.feed.mix import Mix
from p5dist.storage import Folder, RunFolder
from p5dist.train.carried import ITEMS, Saved, carried_rows, copy_rows

REPORT = "init.json"
_BACKBONE = "model.backbone."
_OPTIMIZERS = ("fused.", "dense.")


@dataclass(frozen=True)
class Source:
    """A checkpoint to start from."""

    checkpoint: Checkpoint
    stage: str
    """The training stage that made it."""
    run: RunFolder

    @classmethod
    def find(cls, start: str, job: RunConfig, folder: RunFolder) -> Source:
        """The checkpoint that ``init_from: start`` names.

        Raises:
            CheckpointError: no complete checkpoint is there, or no run around it.
        """
        if start in job.trainings():
            own = Checkpoints(folder.training(start) / "checkpoints").best()
            return cls(own, start, folder)
        source = Folder.open(start)
        if (source / MARKER).exists():
            checkpoint = Checkpoint(source, int((source / MARKER).read_json()["step"]))
            source = source.above.above
        else:
            checkpoint = Checkpoints(source / "checkpoints").best()
        run = RunFolder.at(source.above)
        stage = source.name
        if not (run.prepare / MANIFEST).exists():
            run, stage = RunFolder.at(run.root.above), f"{run.root.name}/{stage}"
        if not (run.prepare / MANIFEST).exists():
            raise CheckpointError(
                "no run around a checkpoint to start from", where=str(source),
                rule="ids are read from prepare/ of its run, two or three folders above it",
                fix="give the folder of a training stage inside of its whole run folder",
            )  # fmt: skip
        return cls(checkpoint, stage, run)

    @property
    def prepare(self) -> Folder:
        """The data that it was trained on."""
        return self.run.prepare

    @cached_property
    def job(self) -> RunConfig:
        """Of the run that made it."""
        return parse_job(self.checkpoint.meta()["job"])

    def rows_of(self, name: str, job: RunConfig, prepare: Folder) -> Ints | None:
        """:func:`.carried_rows` of a tensor for a run with this job and prepare folder."""
        then, now = (one.prepare.vocabulary.hashed for one in (self.job, job))
        same_hash = now is not None and then == now
        return carried_rows(name, self.prepare, prepare, same_hash=same_hash)

    def trained_items(self) -> Bools:
        """[items] whether the row of item id i + 1 is trained."""
        found = read_trained(self.run.training(self.stage))
        if found is not None:
            return found
        table = (self.prepare / "vocabulary/item.parquet").read_table([c.COUNT])
        counted: Bools = table[c.COUNT].to_numpy() > 0
        return counted


def trained_items(job: RunConfig, stage: str, folder: RunFolder, mix: Mix) -> Bools:
    """[items] whether the row of item id i + 1 is trained: by an interaction of this stage, or by
    the stage that it starts from.

    Raises:
        CheckpointError: as :meth:`Source.find`.
    """
    found: Bools = mix.item_counts() > 0
    start = job.trainings()[stage].init_from
    if start is None:
        return found
    source = Source.find(start, job, folder)
    rows = source.rows_of(ITEMS, job, folder.prepare)
    before = np.append(False, source.trained_items())
    found |= (before if rows is None else before[np.maximum(rows, 0)])[1:]
    return found


@dataclass
class Report:
    """What happened to every tensor."""

    source: str
    step: int
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Not in the checkpoint; as the seed made them."""
    unexpected: list[str] = field(default_factory=list)
    """In the checkpoint only."""
    resized: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of another vocabulary or length: rows before, now, carried over and new."""

    def lines(self) -> list[str]:
        """For people."""
        found = [f"starts from {self.source}: {len(self.loaded)} tensors as they were"]
        for name, rows in self.resized.items():
            found.append(
                f"{name}: {rows['carried']:,} of {rows['before']:,} rows carried over, "
                f"{rows['new']:,} new"
            )
        for what, names in (("not there", self.missing), ("not used", self.unexpected)):
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                found.append(f"{what}: {', '.join(names[:4])}{more}")
        return found


def initialise(
    state: State,
    source: Source,
    job: RunConfig,
    stage: str,
    prepare: Folder,
    labels: AttributeLabels | None,
) -> Report:
    """Fill the weights in ``state`` from ``source``; all workers call it, each for its own part.

    The backbone is carried over, and the parameters of the objective or task if the source has the
    same objective or task; with ``init_optimizers`` also the states of their optimizers, which are
    zero for rows of new items.

    Args:
        state: the stage's tensors by name, with the values of the seed.
        prepare: of this run.
        labels: item attributes that the model reads.

    Raises:
        CheckpointError: a tensor has another shape for another reason than the vocabulary, or
            nothing fits.
    """
    saved: dict[str, Saved] = {}
    for file, entry in source.checkpoint.entries():
        saved.setdefault(entry.name, []).append((file, entry))
    averaged = any(name.startswith(AVERAGE) for name in saved)
    if averaged:  # the source, too, is used with its average
        averages = {"model." + n.removeprefix(AVERAGE): pieces for n, pieces in saved.items()
                    if n.startswith(AVERAGE)}  # fmt: skip
        saved = averages | {n: pieces for n, pieces in saved.items() if n.startswith(_OPTIMIZERS)}
    prefix = "model." if _learned_the_same(source, job, stage) else _BACKBONE
    report = Report(str(source.checkpoint.folder), source.checkpoint.step)
    wanted = {name: value for name, value in state.items() if name.startswith(prefix)}
    if job.trainings()[stage].init_optimizers:
        wanted |= {n: value for n, value in state.items() if _of_optimizer(n).startswith(prefix)}
    report.missing = sorted(wanted.keys() - saved.keys())
    report.unexpected = sorted(n for n in saved.keys() - state.keys() if n.startswith(prefix))
    same: State = {}
    for name in sorted(wanted.keys() & saved.keys()):
        optimizer = _of_optimizer(name)
        rows = source.rows_of(optimizer or name, job, prepare)
        shape, before = tuple(wanted[name].size()), saved[name][0][1].shape
        if rows is None and (shape or (1,)) == before:
            same[name] = wanted[name]
        elif rows is None and "positions" in name and shape[1:] == before[1:]:
            kept = min(shape[0], before[0])
            copy_rows(wanted[name], name, saved[name], np.arange(kept), None)
            report.resized[name] = _rows(before[0], shape[0], kept)
        elif rows is not None and shape[1:] == before[1:]:
            if optimizer:
                copy_rows(wanted[name], name, saved[name], rows, None, means=False)
            else:
                copy_rows(wanted[name], name, saved[name], rows, labels if name == ITEMS else None)
            carried = int((rows[1:] >= 0).sum())
            report.resized[name] = _rows(before[0] - 1, shape[0] - 1, carried)
        else:
            raise CheckpointError(
                "a checkpoint to start from does not fit the model",
                where=f"{source.checkpoint.folder}, {name}", value=f"shape {list(before)}",
                rule=f"the model has shape {list(shape)}",
                fix="use the same model section, or set init_from to null",
            )  # fmt: skip
    if not same and not report.resized:
        raise CheckpointError(
            "nothing of a checkpoint to start from is in this model",
            where=str(source.checkpoint.folder), value=", ".join(report.unexpected[:4]),
            rule=f"tensors are matched by name: {', '.join(report.missing[:4])} …",
            fix="use the same model section, or set init_from to null",
        )  # fmt: skip
    names = {n: AVERAGE + n.removeprefix("model.") if averaged and n.startswith("model.") else n
             for n in same}  # fmt: skip
    source.checkpoint.load({names[n]: value for n, value in same.items()})
    report.loaded = sorted(same)
    return report


def _of_optimizer(name: str) -> str:
    """The weights that a tensor of an optimizer belongs to; empty for other tensors."""
    if not name.startswith(_OPTIMIZERS):
        return ""
    return "model." + name.partition(".")[2].rpartition(".")[0]


def _rows(before: int, now: int, carried: int) -> dict[str, int]:
    return {"before": before, "now": now, "carried": carried, "new": now - carried}


def _learned_the_same(source: Source, job: RunConfig, stage: str) -> bool:
    then = source.job.trainings().get(source.stage)
    return then is not None and then.learned == job.trainings()[stage].learned
