"""Vectors in files: those of the live model, whatever the size of a block and the workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from p5dist.config import RunConfig
from p5dist.data import matrix
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.environment.processes import Processes
from p5dist.environment.workers import Here
from p5dist.inference import vectors
from p5dist.inference.scorer import Scorer, load_scorer
from p5dist.inference.vectors import Trained, make_vectors
from p5dist.storage import RunFolder
from p5dist.tasks.build import build_model
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import VECTORS, small_job, write_small_data, write_vectors

KINDS = {
    "attributes": (),
    "users": ("model.inputs={user_id: true, rating: true}",),
    "average": ("pretrain.average={decay: 0.5, every: 1}",),
    "cosine": ("model.cosine_temperature=0.1",),
    "supplied": VECTORS,
    "supplied and ids": (*VECTORS, "model.inputs.user_id=true"),
    "vectors only": (*VECTORS, "model.item_ids=false", "model.item_attributes=[]"),
    "attributes only": ("model.item_ids=false",),
    "masked": ("pretrain.objective={kind: masked}",),
}


def trained(folder: Path, *overrides: str) -> tuple[RunConfig, RunFolder]:
    job = small_job(
        folder, "pretrain.steps=4", "pretrain.checkpoint={every: 2, keep: 2}", "finetune={}",
        *overrides,
    )  # fmt: skip
    write_small_data(job)
    run_distributed(train, 2, job, "pretrain")
    return job, RunFolder.of(job.storage, job.name)


def live(job: RunConfig, folder: RunFolder) -> Scorer:
    """The scorer of the model with whole tables in memory."""
    manifest = Manifest.load(folder.prepare)
    known = Trained(job, folder, "pretrain")
    model = build_model(job, "pretrain", manifest, torch.device("cpu"))
    known.load(dict(model.state_dict()))
    catalogue = Catalogue.read(folder.prepare, manifest)
    return Scorer(model, known.collate(manifest), catalogue, job.feed.max_length)


def all_histories(folder: RunFolder) -> Histories:
    files = sorted((folder.prepare / "shards").children())
    tables = [(folder.prepare / "shards" / name).read_table() for name in files]
    return Histories.concat([Histories.from_table(table) for table in tables])


@pytest.mark.parametrize("kind", list(KINDS))
def test_stored_vectors_are_those_of_the_model(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 7 rows, so that 30 items and 50 users are several blocks."""
    job, folder = trained(tmp_path, *KINDS[kind])
    expected, histories = live(job, folder), all_histories(folder)
    monkeypatch.setattr(matrix, "BLOCK", 7)
    monkeypatch.setattr(vectors, "BLOCK", 7)
    monkeypatch.setattr(vectors, "_BLOCKS_OF_A_TASK", 2)
    for side, number in (("item", 30), ("user", 50)):
        write_vectors(folder.prepare, side, number)
    make_vectors(Trained(job, folder, "pretrain"), Here())
    written = folder.training("pretrain") / "vectors"
    assert "backbone.items-000004.npy" in written.children()
    assert ("backbone.inputs.users-000007.npy" in written.children()) == (
        kind in ("users", "supplied", "supplied and ids", "vectors only")
    )
    found = load_scorer(job, folder, "pretrain")
    assert not any(p.device.type == "meta" for p in found.model.parameters())
    # The last bits of a product depend on the number of rows.
    tolerance = 1e-6 if "model.item_vectors=[look]" in KINDS[kind] else 0
    for a, b in (
        (found.item_vectors(), expected.item_vectors()),
        (found.user_vectors(histories), expected.user_vectors(histories)),
        (found.user_vectors(Histories.empty(3)), expected.user_vectors(Histories.empty(3))),
    ):
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=tolerance)


def test_processes_write_the_same_vectors_and_a_new_checkpoint_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = trained(tmp_path)
    known = Trained(job, folder, "pretrain")
    written = folder.training("pretrain") / "vectors"
    make_vectors(known, Here())
    first = {name: (written / name).read_bytes() for name in written.children()}
    written.remove()
    workers = Processes("test", 2)
    try:
        make_vectors(known, workers)
    finally:
        workers.close()
    assert {name: (written / name).read_bytes() for name in written.children()} == first

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patched:
        patched.setattr(vectors, "_write_blocks", fail)
        make_vectors(known, Here())  # they are there
    marker = known.checkpoint.folder / "complete.json"
    marker.write_json(marker.read_json() | {"score": 2.0})  # another checkpoint
    make_vectors(known, Here())
    assert (written / "vectors.json").read_bytes() != first["vectors.json"]


def test_without_files_a_process_makes_its_own(tmp_path: Path) -> None:
    job, folder = trained(tmp_path)
    scorer = load_scorer(job, folder, "pretrain")
    assert not (folder.training("pretrain") / "vectors").exists()
    assert torch.equal(scorer.item_vectors(), live(job, folder).item_vectors())


def test_blocks_of_items_are_held_if_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = trained(tmp_path)
    monkeypatch.setattr("p5dist.inference.scorer.BLOCK", 7)
    scorer = load_scorer(job, folder, "pretrain")
    whole = scorer.item_vectors()
    for held, streams in ((0, True), (30 * 16 * 4 - 1, True), (30 * 16 * 4, False)):
        items = scorer.items(held)
        assert len(items) == 5
        for _ in range(2):
            blocks = list(items)
            assert [first for first, _ in blocks] == [1, 7, 14, 21, 28]
            assert torch.equal(torch.cat([v for _, v in blocks]), whole)
        assert items.streams == streams


def test_rows_of_a_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from p5dist.storage import Folder

    monkeypatch.setattr(matrix, "BLOCK", 4)
    values = np.random.default_rng(1).normal(size=(11, 3)).astype(np.float32)
    made = matrix.Matrix(Folder.open(str(tmp_path)), "m", 11, 3)
    assert made.blocks == 3
    for block in range(3):
        made.write(block, values[slice(*made.range_of(block))])
    index = np.array([10, 0, 3, 3, 4, 7, 8, 1])
    assert (made.take(index) == values[index]).all()
    assert (made.take(np.sort(index)) == values[np.sort(index)]).all()
    assert made.take(np.zeros(0, np.int64)).shape == (0, 3)
