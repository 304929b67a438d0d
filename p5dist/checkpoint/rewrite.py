"""Rows of a checkpoint set to zero: what a model holds of single users in their own rows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch

from p5dist.checkpoint.checkpoints import Checkpoint, Checkpoints
from p5dist.checkpoint.pieces import Piece
from p5dist.checkpoint.shard_files import Entry, read_rows, write_shard
from p5dist.data.jagged import Ints
from p5dist.storage import Folder
from p5dist.storage.arrays import LocalCopies


def zero_rows(checkpoint: Checkpoint, is_table: Callable[[Entry], bool], rows: Ints) -> int:
    """Set rows of tables, and what the optimizers keep of them, to zero.

    The files that have some are written anew under other names; then the marker names these, and
    the old files are removed: whoever reads the checkpoint finds the old or the new one whole.

    Args:
        is_table: whether the rows of a saved piece are those of such a table.
        rows: rising.

    Returns:
        The number of rows of all tables that were not zero before.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    by_file: dict[str, list[Entry]] = defaultdict(list)
    files: dict[str, Folder] = {}
    for file, entry in checkpoint.entries():
        by_file[file.name].append(entry)
        files[file.name] = file
    attempt, changed, renamed = int(time.time() * 1000), 0, dict[str, str]()
    for number, (name, entries) in enumerate(sorted(by_file.items())):
        if not any(is_table(entry) for entry in entries):
            continue
        pieces, zeroed = _without(files[name], entries, is_table, rows)
        if not zeroed:
            continue
        changed += zeroed
        renamed[name] = f"{attempt}-{number:05d}"
        write_shard(checkpoint.folder, renamed[name], pieces)
    if renamed:
        _switch(checkpoint, list(by_file), renamed)
    return changed


def _without(
    file: Folder, entries: list[Entry], is_table: Callable[[Entry], bool], rows: Ints
) -> tuple[list[Piece], int]:
    """The pieces of a file with ``rows`` set to zero, mapped: only changed pages are in memory."""
    copies, pieces, zeroed = LocalCopies(), [], 0
    path = copies.path(file)
    for entry in entries:
        for _ in read_rows(file, entry, 0, entry.sizes[0]):
            pass  # only to check the checksums: the new file has others
        dtype = torch.empty(0, dtype=entry.torch_dtype).element_size()
        count = int(np.prod(entry.sizes, dtype=np.int64))
        mapped = np.memmap(path, np.uint8, "c", entry.begin, (count * dtype,))
        values = torch.from_numpy(mapped).view(entry.torch_dtype).view(entry.sizes)
        if is_table(entry):
            first, end = entry.offsets[0], entry.offsets[0] + entry.sizes[0]
            here = torch.from_numpy(rows[(rows >= first) & (rows < end)] - first)
            there = here[(values[here] != 0).view(len(here), -1).any(dim=1)] if len(here) else here
            values[there] = 0
            zeroed += len(there)
        pieces.append(Piece(entry.name, entry.shape, entry.offsets, values))
    return pieces, zeroed


def _switch(checkpoint: Checkpoint, names: list[str], renamed: dict[str, str]) -> None:
    """Let the marker name the new files, and remove the old ones."""
    stems = [name.removesuffix(".safetensors") for name in names]
    now = [f"{renamed.get(name, stem)}.json" for name, stem in zip(names, stems, strict=True)]
    meta = {name: value for name, value in checkpoint.meta().items() if name != "step"}
    above = Checkpoints(checkpoint.folder.above)
    above.complete(checkpoint.step, now, meta, checkpoint.score())
    for name in renamed:
        (checkpoint.folder / name).remove()
        (checkpoint.folder / f"{name.removesuffix('.safetensors')}.json").remove()
