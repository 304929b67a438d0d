"""A folder that serves a trained run without p5dist: the user encoder, item vectors, the ids of the
log, the configuration, and a model card."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from p5dist import __version__
from p5dist.checkpoint.pieces import as_bytes
from p5dist.checkpoint.shard_files import safetensors_header
from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.environment.extras import need
from p5dist.errors import ConfigError, StorageError
from p5dist.inference.export.card import model_card
from p5dist.inference.export.encoder import Inputs, UserEncoder, padded, traced
from p5dist.inference.items import Items
from p5dist.inference.scorer import Scorer, load_scorer
from p5dist.inference.vectors import Trained
from p5dist.storage import Folder, RunFolder

TOLERANCE = 1e-5
"""Largest difference from the vectors of the live model, relative to their largest number."""
_HISTORIES = 64  # random ones that are compared
_FILES = {"torch": "user_encoder.pt2", "onnx": "user_encoder.onnx"}


@dataclass(frozen=True)
class Ranked:
    """A trained stage that ranks, and what is known about its run."""

    job: RunConfig
    folder: RunFolder
    manifest: Manifest
    stage: str
    step: int
    scorer: Scorer
    items: Items

    @classmethod
    def of(cls, job: RunConfig, stage: str | None) -> Ranked:
        """
        Args:
            stage: left out: the last stage that ranks.

        Raises:
            ConfigError: the stage does not rank items.
            CheckpointError: it has no complete checkpoint.
        """
        folder, stages = RunFolder.of_job(job), job.ranking_stages()
        if not stages or stage not in (None, *stages):
            raise ConfigError(
                "no stage that ranks items", where="--stage", value=stage,
                rule=f"stages that rank: {', '.join(stages) or 'none'}", fix="name one of them",
            )  # fmt: skip
        stage = stage or stages[-1]
        manifest = Manifest.load(folder.prepare)
        return cls(
            job, folder, manifest, stage, Trained(job, folder, stage).checkpoint.step,
            load_scorer(job, folder, stage), Items.read(job, folder.prepare, manifest),
        )  # fmt: skip


def export_package(
    job: RunConfig,
    stage: str | None,
    out: Folder,
    *,
    form: Literal["torch", "onnx"],
    licence: str | None = None,
) -> dict[str, Any]:
    """Write ``user_encoder.pt2`` (torch.export) or ``user_encoder.onnx``, ``items.safetensors``,
    ``items.parquet``, ``config.json`` and ``README.md``. The written encoder is compared with the
    live model on random histories before the command ends.

    Args:
        out: folder that does not exist or is empty.
        licence: for the model card.

    Returns:
        ``folder``, ``files``, ``difference`` (the largest, relative).

    Raises:
        StorageError: the folder has files.
        ConfigError: the stage does not rank; an operator of the model has no form in ONNX; the
            written encoder does not give the vectors of the live model.
    """
    check_empty(out)
    ranked = Ranked.of(job, stage)
    columns = job.model.columns
    encoder = UserEncoder(ranked.scorer, columns)
    with tempfile.TemporaryDirectory(prefix="p5dist-") as folder:
        place = Path(folder, _FILES[form])
        run = _write_encoder(encoder, place, form)
        difference = _difference(ranked, run, columns, encoder.max_length)
        out.make()
        (out / place.name).write_bytes(place.read_bytes())
    write_items(ranked, out)
    (out / "config.json").write_text(json.dumps(_config(ranked, encoder), indent=2) + "\n")
    (out / "README.md").write_text(
        model_card(job, ranked.folder, ranked.manifest, ranked.stage, ranked.step, licence)
    )
    return {"folder": str(out), "files": sorted(out.children()), "difference": difference}


def check_empty(out: Folder) -> None:
    """Raise StorageError if the folder has files."""
    if out.exists() and out.children():
        raise StorageError(
            "the folder to write to has files", where=str(out), rule="an export replaces no file",
            fix="give another name, or remove the folder first",
        )  # fmt: skip


def _write_encoder(encoder: UserEncoder, place: Path, form: str) -> Any:
    """Write the encoder; what the written file computes, as a function of the inputs."""
    program = traced(encoder)
    if form == "torch":
        torch.export.save(program, place)
        loaded = torch.export.load(place).module()
        return lambda inputs: loaded(*inputs)
    onnxruntime = need("onnxruntime", "onnx", "--format onnx")
    try:
        torch.onnx.export(program, (), str(place), dynamo=True, verbose=False)
    except Exception as e:  # torch.onnx raises many kinds
        raise ConfigError(
            "the model has an operator without a form in ONNX", where="--format onnx",
            value=str(e).strip().splitlines()[0][:200],
            rule="every operator of the encoder has one", fix="export with --format torch",
        ) from e  # fmt: skip
    session = onnxruntime.InferenceSession(str(place), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Inputs) -> Tensor:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _difference(ranked: Ranked, run: Any, columns: tuple[str, ...], longest: int) -> float:
    """The largest difference between written and live vectors of random histories."""
    histories = _random_histories(ranked, longest)
    with torch.no_grad():
        found = run(padded(histories, columns, longest))
    expected = ranked.scorer.user_vectors(histories).cpu()
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE:
        raise ConfigError(
            "the written encoder does not give the vectors of the live model",
            where=ranked.stage, value=difference, rule=f"a relative difference up to {TOLERANCE:g}",
            fix="please report this with the model section of the job",
        )  # fmt: skip
    return difference


def _random_histories(ranked: Ranked, longest: int) -> Histories:
    """Of all lengths, among them 0 and the longest."""
    rng = np.random.default_rng(ranked.job.seed)
    lengths = np.append([0, longest], rng.integers(0, longest + 1, _HISTORIES - 2))
    total, offsets = int(lengths.sum()), np.append(0, np.cumsum(lengths))
    events = len(ranked.manifest.events)
    low, high = ranked.manifest.rating_range or (0.0, 1.0)
    time = np.sort(rng.integers(10**15, 2 * 10**15, total))
    rating = rng.uniform(low, high, total).astype(np.float32)
    return Histories(
        user=np.zeros(len(lengths), dtype=np.int64), row=np.arange(len(lengths)), offsets=offsets,
        item=rng.choice(ranked.scorer.catalogue.ids, total),
        timestamp=time, event=rng.integers(0, events + 1, total).astype(np.int8),
        rating=np.where(rng.random(total) < 0.2, np.float32(np.nan), rating),
        split=np.zeros(total, dtype=np.int8),
    )  # fmt: skip


def write_items(ranked: Ranked, out: Folder) -> None:
    """``items.safetensors``: ``vectors`` [L, dim]; ``items.parquet``: id (from 1: row id - 1 of the
    vectors), item_id and title of the items that have a vector."""
    vectors = ranked.scorer.item_vectors().cpu().contiguous()
    header, _ = safetensors_header({"vectors": (vectors.dtype, tuple(vectors.shape))}, {})
    (out / "items.safetensors").write_chunks([header, as_bytes(vectors)])
    items = ranked.items
    there = pa.array(np.flatnonzero(items.has_vector))
    (out / "items.parquet").write_table(
        pa.table(
            {
                c.ID: pa.array(there.to_numpy() + 1),
                c.ITEM_ID: items.external.take(there),
                c.TITLE: items.titles_at(there),
            }
        )
    )


def _config(ranked: Ranked, encoder: UserEncoder) -> dict[str, Any]:
    job, manifest = ranked.job, ranked.manifest
    return {
        "p5dist": __version__, "run": job.name, "stage": ranked.stage, "step": ranked.step,
        "data": manifest.fingerprint,
        "inputs": ["item", "length", *encoder.columns],
        "max_length": encoder.max_length, "dim": job.model.dim, "items": manifest.items,
        "events": {name: code for code, name in enumerate(manifest.events, 1)},
        "timestamp_unit": "us", "score": "inner product of user and item vector",
        "knows_users": False,
        "model": job.model.model_dump(mode="json"),
    }  # fmt: skip
