"""Checkpoints of one training stage: sharded safetensors by torch.distributed.checkpoint.

Layout, below ``<run>/<stage>/checkpoints/``::

    step-00000100/shard-00001-model-00001-of-00001.safetensors …   one file a worker
    step-00000100/meta.json         position, fingerprints, versions, plan
    step-00000100/complete.json     the marker: names and sizes of all files, written last

A folder without a marker is no checkpoint. Nothing in it is pickled.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from p5dist.errors import CheckpointError
from p5dist.storage import Folder

MARKER = "complete.json"
META = "meta.json"

State = dict[str, Any]
"""Name → tensor or ShardedTensor."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Folder
    step: int

    def meta(self) -> dict[str, Any]:
        """What was saved beside the tensors."""
        meta: dict[str, Any] = (self.folder / META).read_json()
        return meta

    def load(self, state: State) -> None:
        """Read every tensor of ``state`` in place, at any number of workers and any plan.

        Raises:
            CheckpointError: a file that the marker names is missing or truncated, or an entry of
                ``state`` is not in the checkpoint or has another shape there.
        """
        for name, size in (self.folder / MARKER).read_json()["files"].items():
            found = (self.folder / name).size()
            if found != size:
                raise CheckpointError(
                    "a file of a checkpoint is missing or truncated",
                    where=str(self.folder / name),
                    value=f"{found} bytes",
                    rule=f"the marker states {size} bytes",
                    fix=f"delete {self.folder}; the run continues from the checkpoint before it",
                )
        with _on_disk(self.folder) as path, _explained(self.folder, "cannot be loaded"):
            load(state, storage_reader=HuggingFaceStorageReader(path), no_dist=not _group())


@dataclass(frozen=True)
class Checkpoints:
    """All checkpoints of a stage.

    Args:
        folder: ``<run>/<stage>/checkpoints``
    """

    folder: Folder

    def list(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        found = []
        for name in self.folder.children():
            matched = re.fullmatch(r"step-(\d+)", name)
            if matched and (self.folder / name / MARKER).exists():
                found.append(Checkpoint(self.folder / name, int(matched[1])))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The complete checkpoint of the highest step; None where there is none."""
        found = self.list()
        return found[-1] if found else None

    def require(self) -> Checkpoint:
        """As :meth:`latest`.

        Raises:
            CheckpointError: there is none.
        """
        latest = self.latest()
        if latest is None:
            halves = [name for name in self.folder.children() if name.startswith("step-")]
            raise CheckpointError(
                "no complete checkpoint",
                where=str(self.folder),
                value=f"{', '.join(halves)} without {MARKER}" if halves else None,
                rule=f"a checkpoint exists once its {MARKER} is written",
                fix="run the training stage; it continues from the last complete checkpoint",
            )
        return latest

    def save(self, step: int, state: State, meta: dict[str, Any], *, keep: int) -> Checkpoint:
        """Write ``state`` at ``step``; every worker calls it. Afterwards the newest ``keep``
        checkpoints stay.

        Raises:
            CheckpointError: on all workers if one could not write; earlier checkpoints are whole.
        """
        folder = self.folder / f"step-{step:08d}"
        _on_first_worker(lambda: _clear(folder), folder)
        with _explained(folder, "could not be written"), _to_disk(folder) as path:
            save(
                state,
                storage_writer=HuggingFaceStorageWriter(path, save_distributed=True),
                no_dist=not _group(),
            )
        _on_first_worker(lambda: self._complete(folder, step, meta, keep), folder)
        return Checkpoint(folder, step)

    def _complete(self, folder: Folder, step: int, meta: dict[str, Any], keep: int) -> None:
        (folder / META).write_json({"step": step, **meta})
        files = {name: (folder / name).size() for name in folder.children()}
        (folder / MARKER).write_json({"step": step, "files": files})
        for old in self.list()[:-keep]:
            _clear(old.folder)


def _clear(folder: Folder) -> None:
    """Remove a checkpoint folder, marker first, and make it anew only when it is written to."""
    (folder / MARKER).remove()
    folder.remove()


def _group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _on_first_worker(action: Any, folder: Folder) -> None:
    """Run ``action`` on rank 0; if it fails there, fail on every worker."""
    problem: list[str | None] = [None]
    if not _group() or dist.get_rank() == 0:
        try:
            action()
        except (OSError, pa.ArrowException) as e:
            problem[0] = str(e)
    if _group():
        dist.broadcast_object_list(problem, src=0)
    if problem[0] is not None:
        raise _failed(folder, "could not be written", problem[0])


@contextmanager
def _explained(folder: Folder, what: str) -> Iterator[None]:
    try:
        yield
    except CheckpointException as e:
        first = next(iter(e.failures.values()))[0]
        raise _failed(folder, what, str(first)) from e
    except (OSError, pa.ArrowException, RuntimeError, ValueError) as e:
        raise _failed(folder, what, str(e)) from e


def _failed(folder: Folder, what: str, reason: str) -> CheckpointError:
    full = "No space left" in reason or "Disk quota" in reason or "file write failed" in reason
    return CheckpointError(
        f"a checkpoint {what}",
        where=str(folder),
        value=reason.strip().splitlines()[0] if reason.strip() else None,
        rule="a checkpoint counts once its marker is written; earlier ones are untouched",
        fix="free space on that disk (or lower checkpoint.keep) and start the same command again"
        if full
        else "mend the cause and start the same command again",
    )


@contextmanager
def _to_disk(folder: Folder) -> Iterator[str]:
    """A local path to write to; on an object store its files are uploaded afterwards."""
    if folder.is_local:
        folder.make()
        yield folder.path
        return
    with tempfile.TemporaryDirectory() as path:
        yield path
        for file in sorted(Path(path).iterdir()):
            pafs.copy_files(
                str(file), f"{folder.path}/{file.name}",
                source_filesystem=pafs.LocalFileSystem(), destination_filesystem=folder.fs,
            )  # fmt: skip


@contextmanager
def _on_disk(folder: Folder) -> Iterator[str]:
    """A local path to read from; from an object store the files are downloaded first."""
    if folder.is_local:
        yield folder.path
        return
    path = tempfile.mkdtemp()
    try:
        pafs.copy_files(
            folder.path, path,
            source_filesystem=folder.fs, destination_filesystem=pafs.LocalFileSystem(),
        )  # fmt: skip
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
