"""The stage is killed while it runs; the same command continues it and writes the same files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from p5dist.prepare import log_tasks as tasks
from p5dist.prepare.layout import Layout
from p5dist.prepare.scratch import Scratch
from p5dist.prepare.sources import Inputs, cut_files
from p5dist.storage import Folder
from tests.prepare.runs import make_job

FILES, ROWS = 24, 20_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    draw = np.random.default_rng(3)
    for i in range(FILES):
        columns = {name: draw.integers(0, n, ROWS) for name, n in
                   (("user", 20_000), ("item", 3_000), ("timestamp", 10**6))}  # fmt: skip
        pq.write_table(pa.table(columns), folder / f"part-{i:03d}.parquet")
    return folder


def command(storage: Path, log: Path) -> list[str]:
    job = storage / "job.yaml"
    storage.mkdir(exist_ok=True)
    columns = {"user": "user", "item": "item", "timestamp": "timestamp"}
    source = {"files": str(log), "format": "parquet", "columns": columns}
    clean = {"min_user_interactions": 20, "min_item_interactions": 5}
    prepare = {"source": source, "clean": clean}
    job.write_text(yaml.safe_dump({"name": "run", "storage": str(storage), "prepare": prepare}))
    return [sys.executable, "-m", "p5dist.cli.main", "prepare", str(job)]


def contents(storage: Path) -> dict[str, bytes]:
    prepare = storage / "run" / "prepare"
    files = [f for f in prepare.rglob("*") if f.is_file() and f.name != "result.json"]
    return {str(f.relative_to(prepare)): f.read_bytes() for f in files}


@pytest.mark.parametrize("after", ["read/range-00003.json", "shard-00002/group.json"])
def test_killed_and_started_again(tmp_path: Path, log: Path, after: str) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(undisturbed, log), check=True, capture_output=True)
    process = subprocess.Popen(
        command(killed, log), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    scratch, end = killed / "run/prepare/scratch", time.monotonic() + 120
    while not (scratch / after).exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "run/prepare/manifest.json").exists()
    assert scratch.exists(), "the stage was through before it was killed"
    subprocess.run(command(killed, log), check=True, capture_output=True)
    assert contents(killed) == contents(undisturbed)


def test_what_is_done_is_not_done_again(tmp_path: Path, log: Path) -> None:
    job = make_job(tmp_path, {"files": str(log), "format": "parquet",
                              "columns": {"user": "user", "item": "item"}})  # fmt: skip
    inputs = Inputs.find(job.prepare)
    layout = Layout.of_log(job.prepare.source, inputs.id_types)
    stage = tasks.Stage(job.prepare, 1, 3, layout, Folder.open(str(tmp_path / "prepare")))
    unit = cut_files(inputs.log, layout)[0]
    first = tasks.read(stage, unit, 0)
    made = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*") if f.is_file()}
    assert tasks.read(stage, unit, 0) == first and first.rows == ROWS
    assert {f: f.stat().st_mtime_ns for f in made} == made


def test_only_the_scratch_of_the_same_input_and_settings_is_kept(tmp_path: Path) -> None:
    scratch = Scratch(Folder.open(str(tmp_path / "scratch")))
    assert not scratch.claim("one")
    scratch.write_json("read/range-00000.json", {"rows": 1})
    assert scratch.claim("one") and scratch.has("read/range-00000.json")
    assert not scratch.claim("two") and not scratch.has("read/range-00000.json")
