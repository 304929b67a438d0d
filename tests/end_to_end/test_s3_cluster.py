"""A job whose log, shards, checkpoints and results are in an object store, on two nodes; one node
is killed together with its worker."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from p5dist.data import columns as c
from p5dist.observe.metrics_log import read_metrics
from p5dist.storage import Folder
from p5dist.submit.local import LocalCluster
from p5dist.train.worker import read_starts
from tests.end_to_end.test_run import JOB, write_log
from tests.s3 import Store, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = "pretrain.steps=400"
# A node of two CPUs has room for one such worker, so each node holds one, of one thread.
A_WORKER_A_NODE = "scale.cpus_per_worker=1.5"


def p5dist(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "p5dist.cli.main", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lists(run: Folder) -> dict[tuple[str, int], str]:
    """Recommended item by user and rank."""
    place = run / "recommend"
    return {
        (row[c.USER_ID], row[c.RANK]): row[c.ITEM_ID]
        for name in place.children()
        if name.endswith(".parquet")
        for row in (place / name).read_table().to_pylist()
    }


def test_all_of_a_run_on_s3_survives_the_loss_of_a_node(
    tmp_path: Path, s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path)
    p5dist("run", str(tmp_path / "job.yaml"), STEPS, "scale.cpus_per_worker=0.5")
    local = Folder.open(str(tmp_path / "runs" / "tiny"))

    for name in ("log.csv", "items.csv"):
        s3.client().upload_file(str(tmp_path / name), s3.bucket, f"raw/{name}")
    job = JOB.replace("{folder}/runs", f"{s3.url}/runs").format(folder=f"{s3.url}/raw")
    (tmp_path / "s3.yaml").write_text(job)
    remote = Folder.open(f"{s3.url}/runs/tiny")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short, for the paths of sockets
        cluster = LocalCluster(Path(folder))
        cluster.up(nodes=2, cpus=2, port=free_port())
        try:
            monkeypatch.setenv("RAY_API_SERVER_ADDRESS", str(cluster.dashboard))
            submitted = p5dist(
                "submit", str(tmp_path / "s3.yaml"), STEPS, A_WORKER_A_NODE, "--json"
            )
            marker = remote / "pretrain" / "checkpoints" / "step-00000040" / "complete.json"
            end = time.monotonic() + 400
            while not marker.exists():
                assert time.monotonic() < end, "training did not start"
                time.sleep(0.2)
            cluster.kill(1)
            cluster.add(1)
            p5dist("jobs", "logs", "-f", json.loads(submitted)["id"])
        finally:
            cluster.down()

    first, second = read_starts(remote / "pretrain")
    assert first["step"] == 0 and second["step"] >= 40
    for stage in ("pretrain", "finetune/rating"):
        here, there = (list(read_metrics(run / stage)) for run in (local, remote))
        assert [m["step"] for m in there] == [m["step"] for m in here]
        expected = pytest.approx([m["loss"] for m in here], rel=1e-5)
        assert [m["loss"] for m in there] == expected
    assert lists(remote) == lists(local)
    assert {user for user, _ in lists(local)} == {f"user{n}" for n in range(60)}
    assert (remote / "report.html").exists()
