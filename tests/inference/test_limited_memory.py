"""A catalogue whose vectors are larger than the memory that each process may take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.checkpoint.pieces import Piece
from p5dist.checkpoint.shard_files import write_shard
from p5dist.config import RunConfig, dump_job
from p5dist.data.manifest import Manifest
from p5dist.storage import RunFolder
from p5dist.tasks.build import build_model
from tests.small_data import small_job, write_small_data

pytestmark = pytest.mark.slow

ITEMS, DIM, ROWS = 2_100_000, 128, 100_000
LIMIT = 1 << 30
"""Bytes of data (RLIMIT_DATA: heap and private memory) of every process."""

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
from p5dist.cli.main import main
sys.argv = ["p5dist", *{words!r}]
main()
"""


def test_evaluated_and_recommended_from(tmp_path: Path) -> None:
    assert 4 * ITEMS * DIM > LIMIT
    job = small_job(
        tmp_path, f"model.dim={DIM}", "finetune={}", "ranking={memory: 0.25, item_to_item: 0.2}",
        "evaluate.baselines=[popularity, item_to_item]", "evaluate.bootstrap=0",
        "recommend.k=5",
    )  # fmt: skip
    folder = write_small_data(job, items=ITEMS)
    _write_checkpoint(job, folder)
    file = tmp_path / "job.yaml"
    file.write_text(dump_job(job))
    for stage in ("evaluate", "recommend"):
        code = LIMITED.format(limit=LIMIT, words=[stage, str(file)])
        # Arrow's own allocators reserve a gigabyte before they use it.
        environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(Path(folder.evaluate.path, "result.json").read_text())
    assert result["protocol"]["catalogue"] == ITEMS
    assert result["metrics"]["hr@10"]["value"] is not None
    assert 0 < result["memory"]["measured"] < LIMIT
    lists = pq.read_table(Path(folder.recommend.path, "part-00000.parquet"))
    assert len(lists) == 50 * 5


def _write_checkpoint(job: RunConfig, folder: RunFolder) -> None:
    """A complete checkpoint of weights that were never trained, whose tables many workers held."""
    manifest = Manifest.load(folder.prepare)
    model = build_model(job, "pretrain", manifest, torch.device("meta"))
    checkpoints = Checkpoints(folder.training("pretrain") / "checkpoints")
    place = checkpoints.at(1).make()
    files, dense = [], []
    for name, value in model.state_dict().items():
        full, shape = f"model.{name}", tuple(value.shape)
        if not value.is_meta:
            dense.append(Piece(full, shape, (0,) * value.dim(), value.detach().clone()))
            continue
        for first in range(0, shape[0], ROWS):
            rows = torch.randn(
                min(ROWS, shape[0] - first), *shape[1:],
                generator=torch.Generator().manual_seed(first),
            )  # fmt: skip
            files.append(f"1-{len(files):05d}")
            write_shard(place, files[-1], [Piece(full, shape, (first, 0), rows)])
    files.append("1-dense")
    write_shard(place, files[-1], dense)
    checkpoints.complete(1, [f"{file}.json" for file in files], {"workers": 1}, None)
