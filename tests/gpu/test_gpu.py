"""What only a GPU can tell: kernels, losses, tables, ranking and a whole run on one card. Skipped
without one; ``make gpu`` runs them first."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Jagged, offsets_of
from p5dist.models.encoders.attention import jagged, padded, varlen
from p5dist.models.encoders.bias import DistanceBias, IntervalBias, IntervalClasses
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.tiles import Query
from tests.distributed.stages import local_state, train, whole
from tests.models.test_encoder_contract import batch_of
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
BOTH = "cpu:gloo,cuda:nccl"
LENGTHS = [190, 3, 77, 0, 200, 1, 64, 65]
HEADS, WIDTH = 4, 32


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "silu"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_are_the_rectangles(activation: Any, causal: bool, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    batch = batch_of(LENGTHS).to(device)
    distance = DistanceBias(200, causal=causal).to(device) if activation == "silu" else None
    interval = IntervalBias(HEADS if activation == "softmax" else 1).to(device)
    modules = [m for m in (distance, interval) if m is not None]
    for module in modules:
        torch.nn.init.normal_(module.table)
    given = torch.randn(len(batch.token), 3 * HEADS * WIDTH, device=device)
    weight = torch.randn(len(batch.token), HEADS * WIDTH, device=device)
    times, found = IntervalClasses(batch, causal=causal), []
    for kernels in (True, False):
        packed = given.clone().requires_grad_()
        if kernels:
            out = jagged.attend(
                packed.to(kind), (0, 1, 2), HEADS,
                jagged.Histories(batch.offsets, 200, times.seconds),
                jagged.Biases(
                    None if distance is None else distance.table, interval.table,
                    0 if distance is None else distance.longest,
                ),
                activation=activation, causal=causal,
            )  # fmt: skip
        else:
            out = padded.attend(
                packed, batch, (0, 1, 2), HEADS, activation=activation, causal=causal,
                distance=distance, interval=interval, intervals=times,
            )  # fmt: skip
        tables = [m.table for m in modules]
        grads = torch.autograd.grad((out.float() * weight).sum(), [packed, *tables])
        found.append((out.float().detach(), *(g.float() for g in grads)))
    for one, other in zip(*found, strict=True):
        error = (one - other).norm() / other.norm()
        assert error < (1e-4 if kind == torch.float32 else 2e-2)


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_is_the_rectangles(causal: bool) -> None:
    device = torch.device("cuda")
    batch = batch_of(LENGTHS).to(device)
    packed = torch.randn(len(batch.token), 3 * HEADS * WIDTH, device=device)
    expected = padded.attend(
        packed, batch, (0, 1, 2), HEADS, activation="softmax", causal=causal, distance=None,
        interval=None, intervals=None,
    )  # fmt: skip
    half = packed.to(torch.bfloat16)
    found = varlen.attend(half, (0, 1, 2), HEADS, batch.offsets, 200, causal=causal)
    assert (found.float() - expected).norm() / expected.norm() < 2e-2


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (("pretrain.tables.kind=rowwise_adagrad",), 1e-3),
        (("pretrain.tables.kind=sgd",), 1e-3),
        (("pretrain.precision=tf32",), 1e-2),
        (("pretrain.precision=bf16",), 2e-2),
        (("model.encoder={kind: hstu, heads: 2}", "pretrain.precision=bf16"), None),
        (("pretrain.tables.kind=adam", "pretrain.tables.lr=0.01"), None),
        (("pretrain.tables.kind=partial_rowwise_adam", "pretrain.tables.lr=0.01"), None),
        (("pretrain.tables.kind=lamb", "pretrain.tables.lr=0.01"), None),
        (("model.inputs={user_id: true}", "scale.sharding={user: row_wise}"), None),
    ],
    ids=str,
)
def test_a_restarted_training_has_the_curve_of_an_undisturbed_one(
    settings: tuple[str, ...], tolerance: float | None, tmp_path: Path
) -> None:
    """And on the CPU, as far as it has the optimizer."""
    job = small_job(tmp_path / "one", *settings)
    write_small_data(job)
    (curve,) = run_distributed(train, 1, job, "pretrain", backend=BOTH)
    assert curve[-1][1] < curve[0][1]
    if tolerance is not None:
        plain = [s for s in settings if "precision" not in s]
        here = small_job(tmp_path / "cpu", *plain)
        write_small_data(here)
        (expected,) = run_distributed(train, 1, here, "pretrain")
        assert [x for _, x in curve] == pytest.approx([x for _, x in expected], rel=tolerance)
    shutil.rmtree(tmp_path / "one/small/pretrain/checkpoints/step-00000020")
    (again,) = run_distributed(train, 1, job, "pretrain", backend=BOTH)
    assert [step for step, _ in again] == [16, 17, 18, 19, 20]
    assert [x for _, x in again] == pytest.approx([x for _, x in curve[15:]], rel=2e-3)


def test_a_checkpoint_of_a_gpu_goes_on_on_the_cpu(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    write_small_data(job)
    run_distributed(train, 1, job, "pretrain", backend=BOTH)
    there = whole(run_distributed(local_state, 1, job, "pretrain", backend=BOTH))
    here = whole(run_distributed(local_state, 1, job, "pretrain"))
    assert there.keys() == here.keys()
    for name, values in here.items():
        assert torch.equal(there[name].cpu(), values), name


def test_ranks_and_lists_are_those_of_the_cpu() -> None:
    """Whole numbers, so that products are exact and ties are many."""
    rng = np.random.default_rng(3)
    users = torch.from_numpy(rng.integers(-2, 3, (500, 16)).astype(np.float32))
    vectors = torch.from_numpy(rng.integers(-2, 3, (70_000, 16)).astype(np.float32))
    lengths = rng.integers(0, 30, 500)
    seen = Jagged(offsets_of(lengths), rng.integers(1, 70_001, int(lengths.sum())))
    owner, target = np.arange(500), rng.integers(1, 70_001, 500)
    catalogue, found = Catalogue(70_000), []
    for device in ("cpu", "cuda"):
        query = Query(users.to(device), owner, target, seen)
        items = HeldItems(vectors.to(device), catalogue)
        (((ranks, lists),),) = rank_products([query], items, 20)
        found.append((ranks, lists.ids, lists.scores))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path) -> None:
    """From a log to lists by the command line, with Ray Train."""
    pytest.importorskip("ray")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "p5dist.cli.main"]
    subprocess.run([*command, "synth", str(log), "--interactions", "200000"], check=True)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"name: gpu\nstorage: {tmp_path}/runs\n"
        f"prepare: {{source: {{files: '{log}/part-*.parquet', format: parquet, "
        "columns: {timestamp: timestamp}}, split: {kind: leave_one_out}}\n"
        "pretrain: {steps: 60, precision: bf16, validation: {every: 30}}\n"
        "evaluate: {users: 2000}\nrecommend: {}\nscale: {device: cuda}\n"
    )
    subprocess.run([*command, "run", str(job)], check=True)
    assert (tmp_path / "runs/gpu/recommend").is_dir()
