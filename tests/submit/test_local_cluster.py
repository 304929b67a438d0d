"""Real Ray nodes on this machine, and jobs submitted to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p5dist.config import dump_job
from p5dist.errors import ClusterError
from p5dist.observe.metrics_log import read_metrics
from p5dist.submit.client import JobServer
from p5dist.submit.follow import wait
from p5dist.submit.local import LocalCluster
from tests.s3 import free_port
from tests.small_data import small_job, write_small_data


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short, for the paths of sockets
        cluster = LocalCluster(Path(folder))
        cluster.up(nodes=3, cpus=2, port=free_port())
        yield cluster
        cluster.down()


def p5dist(*words: str, address: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"RAY_API_SERVER_ADDRESS": address} if address else {})
    return subprocess.run(
        [sys.executable, "-m", "p5dist.cli.main", *words],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_a_job_on_three_nodes_survives_a_node_and_has_the_losses_of_one_machine(
    cluster: LocalCluster, tmp_path: Path, ray_session: None
) -> None:
    settings = ("pretrain.steps=60", "pretrain.checkpoint.every=10", "scale.workers=2")
    curves = []
    for place in ("here", "cluster"):
        job = small_job(tmp_path / place, *settings, "scale.cpus_per_worker=0.5")
        folder = write_small_data(job)
        stage = folder.training("pretrain")
        if place == "here":
            from p5dist.train import driver

            driver.run(job, folder, "pretrain")
        else:
            path = tmp_path / "job.yaml"
            path.write_text(dump_job(job))
            submitted = p5dist("submit", str(path), "pretrain", "--json", address=cluster.dashboard)
            assert submitted.returncode == 0, submitted.stderr
            id = json.loads(submitted.stdout)["id"]
            _wait_for_step(stage.path, 20)
            _kill_a_node_with_a_worker(cluster)
            followed = p5dist("jobs", "logs", "-f", id, address=cluster.dashboard)
            assert followed.returncode == 0, followed.stdout
            again = p5dist("submit", str(path), "pretrain", address=cluster.dashboard)
            assert "has finished; nothing was submitted" in again.stderr
        curves.append([(m["step"], m["loss"]) for m in read_metrics(stage)])
    here, there = curves
    assert [step for step, _ in there] == list(range(1, 61))
    assert [loss for _, loss in there] == pytest.approx([loss for _, loss in here], rel=1e-5)


def _wait_for_step(stage: str, step: int) -> None:
    end = time.monotonic() + 300
    log = Path(stage, "metrics.jsonl")
    while not log.exists() or len(log.read_text().splitlines()) < step:
        assert time.monotonic() < end, "training did not start"
        time.sleep(0.2)


def _kill_a_node_with_a_worker(cluster: LocalCluster) -> None:
    """Not the head, where the driver is."""
    for node in cluster.nodes()[1:]:
        commands = subprocess.run(
            ["ps", "-o", "cmd", "-s", str(node.pid)], capture_output=True, text=True
        ).stdout
        if "RayTrainWorker" in commands:
            cluster.kill(node.number)
            return
    cluster.kill(1)


def test_jobs_join_the_cluster_that_they_are_sent_to(
    cluster: LocalCluster, ray_session: None
) -> None:
    """Whatever other Ray (ray_session, for one) runs on the machine, and on any node."""
    import ray._private.services as services

    assert len(services.find_gcs_addresses()) >= 2
    server = JobServer(str(cluster.dashboard))
    head = cluster.nodes()[0]
    for number, cpus in enumerate((0, 0, 2, 2, 2)):  # 0: on the head
        request = {
            "submission_id": f"where-{number}", "entrypoint": "echo joins $RAY_ADDRESS",
            "entrypoint_num_cpus": cpus,
        }  # fmt: skip
        assert wait(server, server.submit(request), seconds=90).status == "SUCCEEDED"
        assert f"joins {head.address}\n" in server.logs(f"where-{number}")
    for node in cluster.nodes():
        place = cluster.folder / f"ray-{node.number}" / "ray_current_cluster"
        assert place.read_text() == head.address


def test_nodes_listen_on_loopback_only(cluster: LocalCluster) -> None:
    import psutil

    sessions = {node.pid for node in cluster.nodes() if node.alive}
    assert len(sessions) >= 2
    seen = 0
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) not in sessions:
                continue
            found = process.net_connections("tcp")
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
        for connection in found:
            if connection.status == psutil.CONN_LISTEN:
                seen += 1
                assert connection.laddr.ip in ("127.0.0.1", "::ffff:127.0.0.1", "::1")
    assert seen > 5


def test_a_second_cluster_in_the_same_folder_or_on_the_same_port_is_refused(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with pytest.raises(ClusterError, match="a local cluster is already up"):
        cluster.up(nodes=1, cpus=1)
    assert cluster.dashboard is not None
    port = int(cluster.dashboard.rsplit(":", 1)[1])
    with pytest.raises(ClusterError, match=r"port of the job server is in use"):
        LocalCluster(tmp_path).up(nodes=1, cpus=1, port=port)


def test_nodes_are_killed_added_and_ended_and_nothing_else(cluster: LocalCluster) -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        alive = [node.number for node in cluster.nodes() if node.alive]
        cluster.kill(alive[-1])
        with pytest.raises(ClusterError, match=rf"no such node is alive(.|\n)*{alive[-1]}"):
            cluster.kill(alive[-1])
        cluster.add(1)
        numbers = [node.number for node in cluster.nodes() if node.alive]
        assert len(numbers) == len(alive)
        server = JobServer(str(cluster.dashboard))
        ids = {node.node_id for node in cluster.nodes() if node.alive}
        assert ids <= server.alive()
        sessions = {node.pid for node in cluster.nodes()}
        assert cluster.down() == len(numbers)
        assert cluster.nodes() == []
        listed = subprocess.run(["ps", "-eo", "sid=,stat="], capture_output=True, text=True).stdout
        left = [line.split() for line in listed.splitlines()]
        assert not sessions & {int(sid) for sid, state in left if not state.startswith("Z")}
        assert other.poll() is None
    finally:
        other.kill()
