"""The weights of a training stage as one safetensors file, for use without p5dist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from p5dist.checkpoint.checkpoints import Checkpoint, Checkpoints
from p5dist.checkpoint.pieces import AVERAGE, as_bytes
from p5dist.checkpoint.shard_files import Entry, safetensors_header
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError, StorageError
from p5dist.storage import Folder, RunFolder

_MODEL = "model."


def export(job: RunConfig, stage: str, out: Folder, step: int | None = None) -> dict[str, Any]:
    """Write the weights of a checkpoint, with whole tables for any sharding plan that saved them;
    averaged weights if the stage keeps an average. One tensor at a time is in memory. The metadata
    of the file name run, stage, step, data and release of p5dist. Row i of an item table belongs to
    item id i of the run's vocabulary, row 0 to padding.

    Args:
        stage: ``pretrain`` or ``finetune/<task>``.
        step: step of the checkpoint; left out: the best checkpoint, or the latest if none has a
            score.

    Returns:
        ``file``, ``step``, ``bytes``, ``tensors`` (name → shape).

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ConfigError: the job has no such stage.
        StorageError: the file already exists.
    """
    if stage not in job.trainings():
        raise ConfigError(
            "no such training stage", where=f"job {job.name}", value=stage,
            rule=f"its training stages: {', '.join(job.trainings()) or 'none'}",
            fix="name one of them",
        )  # fmt: skip
    if out.exists():
        raise StorageError(
            "the file to write already exists", where=str(out),
            rule="an export replaces no file", fix="give another name, or remove the file first",
        )  # fmt: skip
    folder = RunFolder.of_job(job)
    checkpoints = Checkpoints(folder.training(stage) / "checkpoints")
    checkpoint = checkpoints.best() if step is None else checkpoints.require(step)
    weights = _weights(checkpoint)
    tensors = {_name(n): (entry.torch_dtype, entry.shape) for n, entry in weights.items()}
    metadata = {
        "run": job.name, "stage": stage, "step": str(checkpoint.step),
        "data": Manifest.load(folder.prepare).fingerprint,
        "p5dist": checkpoint.meta()["versions"]["p5dist"],
    }  # fmt: skip
    header, _ = safetensors_header(tensors, metadata)
    out.write_chunks(_content(checkpoint, weights, header))
    return {
        "file": str(out), "step": checkpoint.step, "bytes": out.size(),
        "tensors": {name: list(shape) for name, (_, shape) in tensors.items()},
    }  # fmt: skip


def _name(saved: str) -> str:
    """The name in the model of an entry of a checkpoint."""
    return saved.split(".", 1)[1]


def _weights(checkpoint: Checkpoint) -> dict[str, Entry]:
    """An entry of every tensor of the model, by name in the checkpoint; of a tensor saved in
    several pieces, the entry of one piece."""
    saved = {entry.name: entry for _, entry in checkpoint.entries()}
    averaged = {name: entry for name, entry in saved.items() if name.startswith(AVERAGE)}
    return averaged or {n: entry for n, entry in saved.items() if n.startswith(_MODEL)}


def _content(
    checkpoint: Checkpoint, weights: dict[str, Entry], header: bytes
) -> Iterator[bytes | memoryview]:
    yield header
    for name, entry in weights.items():
        values = torch.empty(entry.shape, dtype=entry.torch_dtype)
        checkpoint.load({name: values})
        yield as_bytes(values)
