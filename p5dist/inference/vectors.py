"""The vectors of all items and users of a trained stage, computed once from its checkpoint.

They are computed block by block: a process reads the rows of a block from the checkpoint, adds the
attributes, and writes the block to ``<stage>/vectors/`` (see :mod:`p5dist.data.matrix`). No process
ever holds an embedding table; what a history looks up, and what it is ranked against, is read from
these files. ``vectors.json`` is written last and names the checkpoint.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from p5dist.checkpoint.checkpoints import MARKER, Checkpoint, Checkpoints
from p5dist.checkpoint.pieces import AVERAGE, Piece, State
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.data.matrix import BLOCK, Matrix
from p5dist.data.trained import read_trained
from p5dist.environment.workers import Workers
from p5dist.feed.collate import Collate
from p5dist.models.tables import ItemTables, StoredItems, StoredUsers, UserTables
from p5dist.storage import Folder, RunFolder
from p5dist.tasks.build import Model, build_model, make_collate

VECTORS = "vectors.json"
_FOLDER = "vectors"
_BLOCKS_OF_A_TASK = 8  # one call computes this many blocks with one reading of the attributes


@dataclass(frozen=True)
class Trained:
    """The checkpoint of a training stage that is used after training: the best one, or the latest
    if the stage has no validation."""

    job: RunConfig
    folder: RunFolder
    stage: str

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Found once, and sent along with this object: all tasks read the same checkpoint. Raises
        CheckpointError if there is none."""
        return Checkpoints(self.folder.training(self.stage) / "checkpoints").best()

    @property
    def vectors(self) -> Folder:
        """Where the stage has its vectors."""
        return self.folder.training(self.stage) / _FOLDER

    def model(self) -> tuple[Model, Manifest]:
        """The model with tables without memory, and the manifest."""
        manifest = Manifest.read(self.folder.prepare)
        return build_model(self.job, self.stage, manifest, torch.device("meta")), manifest

    def collate(self, manifest: Manifest) -> Collate:
        """The collate function of the training."""
        training = self.job.trainings()[self.stage]
        trained = read_trained(self.folder.training(self.stage))
        return make_collate(self.job, self.folder, manifest, training, trained)

    @property
    def prefix(self) -> str:
        """Of the names of weights in the checkpoint."""
        training = self.job.trainings()[self.stage]
        return "model." if training.average is None else AVERAGE

    def load(self, weights: dict[str, Any]) -> None:
        """Fill weights, by name in the model: tensors, or lists of pieces."""
        state: State = {}
        for name, value in weights.items():
            full = self.prefix + name
            if isinstance(value, list):
                value = [Piece(full, p.shape, p.offsets, p.values) for p in value]
            state[full] = value
        self.checkpoint.load(state)


def make_vectors(trained: Trained, workers: Workers, out: Folder | None = None) -> None:
    """Write the vectors of a stage, unless they are there.

    Args:
        workers: compute blocks side by side.
        out: folder to write to; left out: the folder of the stage.

    Raises:
        CheckpointError: there is no complete checkpoint, or it does not fit the job.
    """
    out = trained.vectors if out is None else out
    wanted = _content(trained)
    if _written(out) == wanted:
        return
    (out / VECTORS).remove()
    out.remove()
    out.make()
    calls = [
        (trained, out, path, begin, min(begin + _BLOCKS_OF_A_TASK, matrix.blocks))
        for path, matrix in _matrices(wanted, out).items()
        for begin in range(0, matrix.blocks, _BLOCKS_OF_A_TASK)
    ]
    for _ in workers.results(_write_blocks, calls):
        pass
    (out / VECTORS).write_json(wanted)


def with_stored_vectors(trained: Trained, folder: Folder) -> tuple[Model, Collate, Manifest]:
    """The model of a stage with trained weights, which reads its vectors from ``folder``; its
    collate function, and the manifest."""
    model, manifest = trained.model()
    for path, matrix in _matrices(_written(folder) or {}, folder).items():
        parent, _, name = path.rpartition(".")
        items = isinstance(model.get_submodule(path), ItemTables)
        stored = StoredItems(matrix) if items else StoredUsers(matrix)
        setattr(model.get_submodule(parent), name, stored)
    trained.load(dict(model.state_dict()))
    return model, trained.collate(manifest).for_stored_vectors(), manifest


def hold_vectors(model: nn.Module, device: torch.device) -> None:
    """Keep the vectors of items and users in memory of a GPU, as far as half of its free memory has
    room: what stays in files is read by way of the host at every lookup."""
    left = torch.cuda.mem_get_info(device)[0] // 2
    for module in model.modules():
        if isinstance(module, (StoredItems, StoredUsers)) and module.size <= left:
            module.hold(device)
            left -= module.size


def are_there(trained: Trained) -> bool:
    """Whether the stage has the vectors of its checkpoint."""
    return _written(trained.vectors) == _content(trained)


def _written(folder: Folder) -> dict[str, Any] | None:
    file = folder / VECTORS
    found: dict[str, Any] | None = file.read_json() if file.exists() else None
    return found


def _content(trained: Trained) -> dict[str, Any]:
    """What ``vectors.json`` says: the checkpoint, and the shape of each matrix."""
    checkpoint = trained.checkpoint
    model, _ = trained.model()
    return {
        "step": checkpoint.step,
        "checkpoint": zlib.crc32((checkpoint.folder / MARKER).read_bytes()),
        "shapes": {path: [t.rows, t.dim] for path, t in _tables(model)},
    }


def _matrices(content: dict[str, Any], folder: Folder) -> dict[str, Matrix]:
    return {
        path: Matrix(folder, path, rows, width)
        for path, (rows, width) in content.get("shapes", {}).items()
    }


def _tables(model: nn.Module) -> Iterator[tuple[str, ItemTables | UserTables]]:
    """The embedding tables of a model, by path."""
    for path, module in model.named_modules():
        if isinstance(module, (ItemTables, UserTables)):
            yield path, module


def _write_blocks(trained: Trained, out: Folder, path: str, begin: int, end: int) -> None:
    """Compute and write the blocks begin … end - 1 of one matrix."""
    # TorchRec asks PyTorch something in a way that PyTorch warns of.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    model, manifest = trained.model()
    whole = model.get_submodule(path)
    assert isinstance(whole, (ItemTables, UserTables))
    matrix = Matrix(out, path, whole.rows, whole.dim)
    part = whole.with_rows(min(BLOCK, whole.rows) + 1)
    weights = {f"{path}.{name}": values for name, values in part.state_dict().items()}
    own_name = f"{path}.{whole.own_rows}"
    own = weights.pop(own_name, None)
    trained.load(dict(weights))
    collate = trained.collate(manifest)
    for block in range(begin, end):
        first, last = matrix.range_of(block)
        ids = np.arange(first, last, dtype=np.int64)
        # Row 0 of the part is that of id 0, the padding; row j is that of id first + j - 1.
        first = max(first, 1)
        if own is not None:
            shape = (whole.rows, whole.dim)
            pieces = [Piece("", shape, (first, 0), own[1 : last - first + 1])]
            trained.load({own_name: [Piece("", shape, (0, 0), own[:1]), *pieces]})
        with torch.no_grad():
            if isinstance(part, ItemTables):
                computed = part(*collate.item_lookup(ids, first))
            else:
                computed = part(*collate.user_lookup(ids, first))
        matrix.write(block, computed.numpy())
