"""Where the weights of a stage start: a trained stage of this run or of another one.

Tensors are matched by name. Of another run with another vocabulary, rows of tables are carried over
by their external ids, read in blocks from where they lie; a new item gets the mean of the carried
rows that share its attribute values, or if there are none the mean of all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from p5dist.checkpoint.checkpoints import MARKER, Checkpoint, Checkpoints
from p5dist.checkpoint.pieces import AVERAGE, Piece, State, pieces_of
from p5dist.checkpoint.shard_files import Entry, read_rows
from p5dist.config import RunConfig, parse_job
from p5dist.data import columns as c
from p5dist.data.jagged import Ints
from p5dist.data.labels import AttributeLabels
from p5dist.data.manifest import MANIFEST
from p5dist.errors import CheckpointError
from p5dist.storage import Folder, RunFolder

REPORT = "init.json"
_BACKBONE = "model.backbone."
_ITEMS = "model.backbone.items.ids.embeddings.item.weight"

Saved = list[tuple[Folder, Entry]]


@dataclass(frozen=True)
class Source:
    """A checkpoint to start from."""

    checkpoint: Checkpoint
    stage: str
    """Of the run that made it."""
    prepare: Folder
    """Of that run."""

    @classmethod
    def find(cls, start: str, job: RunConfig, folder: RunFolder) -> Source:
        """The checkpoint that ``init_from: start`` names.

        Raises:
            CheckpointError: no complete checkpoint is there, or no run around it.
        """
        if start in job.trainings():
            own = Checkpoints(folder.training(start) / "checkpoints").best()
            return cls(own, start, folder.prepare)
        source = Folder.open(start)
        if (source / MARKER).exists():
            checkpoint = Checkpoint(source, int((source / MARKER).read_json()["step"]))
            source = _above(_above(source))
        else:
            checkpoint = Checkpoints(source / "checkpoints").best()
        run = _above(source)
        stage = source.name
        if not (run / "prepare" / MANIFEST).exists():
            run, stage = _above(run), f"{run.name}/{stage}"
        if not (run / "prepare" / MANIFEST).exists():
            raise CheckpointError(
                "no run around a checkpoint to start from", where=str(source),
                rule="ids are read from prepare/ of its run, two or three folders above it",
                fix="give the folder of a training stage inside of its whole run folder",
            )  # fmt: skip
        return cls(checkpoint, stage, run / "prepare")


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
    same objective or task.

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
        saved = {"model." + n.removeprefix(AVERAGE): pieces for n, pieces in saved.items()
                 if n.startswith(AVERAGE)}  # fmt: skip
    prefix = "model." if _learned_the_same(source, job, stage) else _BACKBONE
    report = Report(str(source.checkpoint.folder), source.checkpoint.step)
    wanted = {name: value for name, value in state.items() if name.startswith(prefix)}
    report.missing = sorted(wanted.keys() - saved.keys())
    report.unexpected = sorted(n for n in saved.keys() - state.keys() if n.startswith(prefix))
    same: State = {}
    for name in sorted(wanted.keys() & saved.keys()):
        rows = _carried_rows(name, source.prepare, prepare)
        shape, before = tuple(wanted[name].size()), saved[name][0][1].shape
        if rows is None and (shape or (1,)) == before:
            same[name] = wanted[name]
        elif rows is None and "positions" in name and shape[1:] == before[1:]:
            kept = min(shape[0], before[0])
            _copy_rows(wanted[name], name, saved[name], np.arange(kept), None)
            report.resized[name] = _rows(before[0], shape[0], kept)
        elif rows is not None and shape[1:] == before[1:]:
            _copy_rows(wanted[name], name, saved[name], rows, labels if name == _ITEMS else None)
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
    names = {n: AVERAGE + n.removeprefix("model.") if averaged else n for n in same}
    source.checkpoint.load({names[n]: value for n, value in same.items()})
    report.loaded = sorted(same)
    return report


def _above(folder: Folder) -> Folder:
    return Folder(folder.fs, folder.path.rsplit("/", 1)[0])


def _rows(before: int, now: int, carried: int) -> dict[str, int]:
    return {"before": before, "now": now, "carried": carried, "new": now - carried}


def _learned_the_same(source: Source, job: RunConfig, stage: str) -> bool:
    then = parse_job(source.checkpoint.meta()["job"]).trainings().get(source.stage)
    return then is not None and then.learned == job.trainings()[stage].learned


def _carried_rows(name: str, before: Folder, now: Folder) -> Ints | None:
    """[rows] row of the source for each row of a table, -1 where it has none; None where the
    vocabularies are equal, or the tensor is no table."""
    if ".embeddings." not in name and ".embedding_bags." not in name:
        return None
    if before == now:
        return None
    # Tables are named item, item_<attribute>, user, user_<attribute>.
    side, _, attribute = name.split(".")[-2].partition("_")
    file = f"vocabulary/{side}.{attribute}.parquet" if attribute else f"vocabulary/{side}.parquet"
    if not (before / file).exists() or not (now / file).exists():  # bins of numbers have none
        return None
    then, here = ((f / file).read_table([c.EXTERNAL_ID])[c.EXTERNAL_ID] for f in (before, now))
    if then.equals(here):
        return None
    index = pc.index_in(here.combine_chunks(), value_set=then.combine_chunks(), skip_nulls=True)
    row = np.asarray(pc.fill_null(index, -2)).astype(np.int64) + 1
    return np.concatenate([[0], row])


def _copy_rows(
    value: Any, name: str, saved: Saved, rows: Ints, labels: AttributeLabels | None
) -> None:
    """Fill this worker's pieces of a table: row i from row ``rows[i]`` of the saved table; -1: from
    the mean of the carried rows. Rows beyond ``rows`` keep their values."""
    pieces = pieces_of({name: value}, replicated=True)
    means = _Means(rows, labels, saved[0][1].shape[1])
    for first, block in _blocks(saved):
        means.add(first, block)
        for piece in pieces:
            mine, row = _own_rows(piece, rows)
            inside = (row >= first) & (row < first + len(block))
            piece.values[torch.from_numpy(mine[inside])] = block[
                torch.from_numpy(row[inside] - first)
            ].to(piece.values)
    for piece in pieces:
        mine, row = _own_rows(piece, rows)
        new = mine[row < 0]
        if len(new):
            piece.values[torch.from_numpy(new)] = means.of(new + piece.offsets[0]).to(piece.values)


def _own_rows(piece: Piece, rows: Ints) -> tuple[Ints, Ints]:
    """Local rows of a piece, and the saved row of each."""
    first = piece.offsets[0]
    row = rows[first : first + len(piece.values)]
    return np.arange(len(row)), row


def _blocks(saved: Saved) -> Iterator[tuple[int, Tensor]]:
    """(first row, values) of a saved table whose pieces are whole rows."""
    for file, entry in saved:
        assert entry.sizes[1:] == entry.shape[1:], "tables are not split by column"
        for row, values in read_rows(file, entry, 0, entry.sizes[0]):
            yield entry.offsets[0] + row, values


class _Means:
    """Mean rows of a saved table: of all, and of the items that share an attribute value.

    Args:
        rows: [rows now] saved row of each, -1 where there is none.
        labels: of the items now; None: no attributes.
        width: of a row.
    """

    def __init__(self, rows: Ints, labels: AttributeLabels | None, width: int) -> None:
        self.labels = labels
        self.now = {"saved": np.sort(rows[rows > 0]), "id": np.argsort(rows, kind="stable")}
        self.now["id"] = self.now["id"][(rows <= 0).sum() :]
        self.total, self.count = torch.zeros(width, dtype=torch.float64), 0
        values = 0 if labels is None else sum(labels.sizes)
        self.by_label = torch.zeros(values, width, dtype=torch.float64)
        self.label_count = torch.zeros(values, dtype=torch.float64)

    def add(self, first: int, block: Tensor) -> None:
        """Rows ``first`` … of the saved table; row 0 is padding."""
        skip = 1 if first == 0 else 0
        self.total += block[skip:].double().sum(0)
        self.count += len(block) - skip
        if self.labels is None:
            return
        a, b = np.searchsorted(self.now["saved"], (max(first, 1), first + len(block)))
        carried = block[torch.from_numpy(self.now["saved"][a:b] - first)].double()
        offsets, labels = self.labels(self.now["id"][a:b])
        owner = torch.from_numpy(np.repeat(np.arange(b - a), np.diff(offsets)))
        self.by_label.index_add_(0, torch.from_numpy(labels), carried[owner])
        self.label_count += torch.bincount(torch.from_numpy(labels), minlength=len(self.by_label))

    def of(self, ids: Ints) -> Tensor:
        """[n, width] for new ids [n]."""
        mean = (self.total / max(self.count, 1)).expand(len(ids), -1)
        if self.labels is None:
            return mean
        offsets, labels = self.labels(ids)
        known = self.label_count[torch.from_numpy(labels)] > 0
        owner = torch.from_numpy(np.repeat(np.arange(len(ids)), np.diff(offsets)))[known]
        label = torch.from_numpy(labels)[known]
        rows = self.by_label[label] / self.label_count[label].unsqueeze(1)
        number = torch.bincount(owner, minlength=len(ids)).unsqueeze(1)
        summed = torch.zeros(len(ids), rows.shape[1], dtype=torch.float64)
        summed.index_add_(0, owner, rows)
        return torch.where(number > 0, summed / number.clamp(min=1), mean)
