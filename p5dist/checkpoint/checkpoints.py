"""Checkpoints of one training stage, below ``<run>/<stage>/checkpoints/``.

Layout::

    step-00000100/<attempt>-00001.safetensors   pieces of worker 1, see shard_files.py
    step-00000100/<attempt>-00001.json          index of this file
    step-00000100/meta.json                     position, fingerprints, versions, sharding plan
    step-00000100/complete.json                 the marker, written last: names and sizes of files

A folder without a marker is no checkpoint. No file is pickled. An attempt is one start of the
workers: files that a lost worker of an earlier attempt still writes have another name.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa

from p5dist.checkpoint.pieces import Piece, State, overlap, pieces_of
from p5dist.checkpoint.shard_files import Entry, parse_index, read_rows
from p5dist.errors import CheckpointError
from p5dist.storage import Folder

MARKER = "complete.json"
META = "meta.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Folder
    step: int

    def meta(self) -> dict[str, Any]:
        """The content of meta.json."""
        meta: dict[str, Any] = (self.folder / META).read_json()
        return meta

    def score(self) -> float | None:
        """The validation score at this step; None without validation."""
        score: float | None = (self.folder / MARKER).read_json().get("score")
        return score

    def digest(self) -> str:
        """Of the content: SHA-256 over the CRC-32 of all blocks."""
        saved = sorted((e.name, e.offsets, e.sizes, e.crc32) for _, e in self.entries())
        return sha256(repr(saved).encode()).hexdigest()

    def entries(self) -> list[tuple[Folder, Entry]]:
        """All saved pieces with the files that hold them.

        Raises:
            CheckpointError: a file that the marker names is missing, truncated or changed.
        """
        found: list[tuple[Folder, Entry]] = []
        sizes = self.folder.sizes()
        for name, (size, crc) in (self.folder / MARKER).read_json()["files"].items():
            file = self.folder / name
            if sizes.get(name) != size:
                raise self._damaged(
                    file, f"{sizes.get(name)} bytes", f"the marker states {size} bytes"
                )
            if crc is None:
                continue
            text = file.read_bytes()
            if zlib.crc32(text) != crc:
                raise self._damaged(file, "another CRC-32", "the marker states the CRC-32")
            if name != META:
                tensors = self.folder / f"{name.removesuffix('.json')}.safetensors"
                found += [(tensors, entry) for entry in parse_index(text)]
        return found

    def _damaged(self, file: Folder, value: str, rule: str) -> CheckpointError:
        return CheckpointError(
            "a file of a checkpoint is missing, truncated or changed",
            where=str(file),
            value=value,
            rule=rule,
            fix=f"delete {self.folder}; the run continues from the previous checkpoint",
        )

    def load(self, state: State) -> None:
        """Fill every tensor of ``state`` in place, for any number of workers and any sharding plan
        that saved the checkpoint; this worker reads only the blocks that it needs.

        Raises:
            CheckpointError: a file is missing or damaged, or an entry of ``state`` is not in the
                checkpoint, or has another shape or type in the checkpoint.
        """
        saved: dict[str, list[tuple[Folder, Entry]]] = defaultdict(list)
        for file, entry in self.entries():
            saved[entry.name].append((file, entry))
        wanted = pieces_of(state, replicated=True)
        for piece in wanted:
            self._check(piece, saved.get(piece.name))
        # In the order of the bytes, so that one request reads adjacent small pieces.
        copies = [(file, entry, p) for p in wanted for file, entry in saved[p.name]]
        copies.sort(key=lambda copy: (copy[0].path, copy[1].begin))
        missing = {id(p): p.values.numel() for p in wanted}
        for file, entry, piece in copies:
            try:
                missing[id(piece)] -= _copy(file, entry, piece)
            except (OSError, pa.ArrowException) as e:
                raise self._damaged(file, str(e), "every file can be read") from e
        for piece in wanted:
            if missing[id(piece)]:
                raise self._damaged(
                    self.folder, f"{missing[id(piece)]} values of {piece.name} are in no file",
                    "the shards of a table cover it",
                )  # fmt: skip

    def _check(self, piece: Piece, saved: list[tuple[Folder, Entry]] | None) -> None:
        shape, dtype = tuple(piece.shape), piece.values.dtype
        entry = saved[0][1] if saved else None
        if entry is not None and (entry.shape, entry.torch_dtype) == (shape, dtype):
            return
        raise CheckpointError(
            "a checkpoint does not fit the model",
            where=f"{self.folder}, {piece.name}",
            value="not in the checkpoint"
            if entry is None
            else f"shape {list(entry.shape)}, {entry.torch_dtype}",
            rule=f"the model has shape {list(shape)}, {dtype}",
            fix="use the job that the checkpoint was made with, or another run name",
        )


def _copy(file: Folder, entry: Entry, piece: Piece) -> int:
    """Copy the values of ``piece`` that a saved piece has; the number of copied values."""
    box = (piece.offsets, tuple(piece.values.shape))
    common = overlap((entry.offsets, entry.sizes), box)
    if common is None:
        return 0
    from_box = (slice(None), *_slices(common[1:], entry.offsets[1:]))
    to_columns = _slices(common[1:], piece.offsets[1:])
    first, last = (row - entry.offsets[0] for row in common[0])
    shift = entry.offsets[0] - piece.offsets[0]
    copied = 0
    for row, values in read_rows(file, entry, first, last):
        part = values[from_box]
        to_box = (slice(row + shift, row + shift + len(part)), *to_columns)
        piece.values[to_box].copy_(part)
        copied += part.numel()
    return copied


def _slices(box: list[tuple[int, int]], offsets: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(begin - o, end - o) for (begin, end), o in zip(box, offsets, strict=True))


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept when a new checkpoint is complete."""

    newest: int = 2
    """Number of newest checkpoints that are kept."""
    every: int | None = None
    """Checkpoints of steps that are multiples of this number are always kept."""
    best: bool = False
    """Keep the checkpoint with the highest score."""

    def removes(self, found: list[tuple[int, float | None]]) -> set[int]:
        """The steps to remove.

        Args:
            found: (step, score) of the complete checkpoints, oldest first.
        """
        stay = {step for step, _ in found[-self.newest :]}
        if self.every is not None:
            stay |= {step for step, _ in found if step % self.every == 0}
        scored = [(score, -step) for step, score in found if score is not None]
        if self.best and scored:
            stay.add(-max(scored)[1])  # the first of equal scores
        return {step for step, _ in found} - stay


@dataclass(frozen=True)
class Checkpoints:
    """All checkpoints of a stage.

    Args:
        folder: ``<run>/<stage>/checkpoints``
    """

    folder: Folder

    def at(self, step: int) -> Folder:
        """Folder of the checkpoint after ``step`` steps."""
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> dict[int, bool]:
        """Step → whether the checkpoint is complete, of all folders, oldest first."""
        found = {}
        for name in self.folder.children():
            matched = re.fullmatch(r"step-(\d+)", name)
            if matched:
                found[int(matched[1])] = (self.folder / name / MARKER).exists()
        return dict(sorted(found.items()))

    def all(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        return [Checkpoint(self.at(step), step) for step, whole in self._steps().items() if whole]

    def latest(self) -> Checkpoint | None:
        """The complete checkpoint of the highest step; None if there is none."""
        found = self.all()
        return found[-1] if found else None

    def best(self) -> Checkpoint:
        """The complete checkpoint with the highest score, the first of equal scores; the latest if
        no checkpoint has a score.

        Raises:
            CheckpointError: there is no complete checkpoint.
        """
        latest = self.require()
        scored = [(score, -found.step, found) for found in self.all()
                  if (score := found.score()) is not None]  # fmt: skip
        return max(scored)[2] if scored else latest

    def require(self, step: int | None = None) -> Checkpoint:
        """The complete checkpoint after ``step`` steps; None: the latest.

        Raises:
            CheckpointError: there is no such complete checkpoint.
        """
        if step is not None:
            steps = [step for step, whole in self._steps().items() if whole]
            if step not in steps:
                raise CheckpointError(
                    "no complete checkpoint of this step", where=str(self.folder), value=step,
                    rule=f"there are {', '.join(map(str, steps)) or 'none'}",
                    fix="name one of them",
                )  # fmt: skip
            return Checkpoint(self.at(step), step)
        latest = self.latest()
        if latest is None:
            halves = [self.at(step).name for step in self._steps()]
            raise CheckpointError(
                "no complete checkpoint",
                where=str(self.folder),
                value=f"{', '.join(halves)} without {MARKER}" if halves else None,
                rule=f"a checkpoint exists once its {MARKER} is written",
                fix="run the training stage; it continues from the last complete checkpoint",
            )
        return latest

    def complete(
        self, step: int, names: list[str], meta: dict[str, Any], score: float | None
    ) -> None:
        """Write meta.json and the marker; all index files ``names`` must exist."""
        folder = self.at(step)
        (folder / META).write_json({"step": step, **meta})
        files: dict[str, tuple[int | None, int | None]] = {}
        for name in [META, *names]:
            text = (folder / name).read_bytes()
            files[name] = (len(text), zlib.crc32(text))
        for name in names:
            tensors = f"{name.removesuffix('.json')}.safetensors"
            files[tensors] = ((folder / tensors).size(), None)
        (folder / MARKER).write_json({"step": step, "score": score, "files": files})

    def tidy(self, retention: Retention) -> None:
        """Remove checkpoints that ``retention`` does not keep, and incomplete older ones."""
        steps = self._steps()
        whole = [step for step, complete in steps.items() if complete]
        scores = {s: Checkpoint(self.at(s), s).score() for s in whole} if retention.best else {}
        going = retention.removes([(step, scores.get(step)) for step in whole])
        going |= {step for step, complete in steps.items() if not complete and step < whole[-1]}
        for step in going:
            self.discard(step)
        # A worker that was lost during the save of this step leaves files of its attempt.
        newest = self.at(whole[-1])
        named = (newest / MARKER).read_json()["files"]
        for name in newest.children():
            if name != MARKER and name not in named:
                (newest / name).remove()

    def discard(self, step: int) -> None:
        """Remove a checkpoint, marker first."""
        (self.at(step) / MARKER).remove()
        self.at(step).remove()
