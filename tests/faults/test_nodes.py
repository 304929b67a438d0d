"""Nodes of a cluster are lost, come back and are preempted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from p5dist.checkpoint.checkpoints import Checkpoints
from tests.faults.jobs import JobProcess, leftovers, small_job_process
from tests.faults.nodes import ray_nodes

pytestmark = pytest.mark.slow

STEPS = 2500
OVERRIDES = (
    f"pretrain.steps={STEPS}", "pretrain.checkpoint={every: 100, keep: 100}", "finetune={}",
    "pretrain.schedule.kind=constant", "scale.cpus_per_worker=1", "scale.timeout_s=10",
)  # fmt: skip


def workers_by_step(job: JobProcess) -> dict[int, int]:
    found = Checkpoints(job.stage / "checkpoints").all()
    return {checkpoint.step: checkpoint.meta()["workers"] for checkpoint in found}


def assert_same(job: JobProcess, undisturbed: JobProcess) -> None:
    assert [step for step, _ in job.losses()] == list(range(1, STEPS + 1))
    expected = [loss for _, loss in undisturbed.losses()]
    assert [loss for _, loss in job.losses()] == pytest.approx(expected, rel=1e-4)
    assert leftovers(job.stage) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> JobProcess:
    job = small_job_process(tmp_path_factory.mktemp("undisturbed"), *OVERRIDES)
    job.start()
    assert job.wait() == 0, job.log.read_text()
    return job


def test_the_run_shrinks_when_a_node_is_lost_and_grows_when_it_is_back(
    tmp_path: Path, undisturbed: JobProcess
) -> None:
    with ray_nodes(2) as nodes:
        job = small_job_process(
            tmp_path, *OVERRIDES, "scale.workers={min: 1, max: 2, resize_every_s: 5}",
            f"scale.address='{nodes.address}'",
        )  # fmt: skip
        job.start()
        job.wait_for_step(200)
        nodes.kill(nodes.nodes[0])
        lost_at = job.last_step()
        end = time.monotonic() + 120
        while job.last_step() < lost_at + 200 and time.monotonic() < end:
            time.sleep(0.1)
        nodes.add()
        assert job.wait(500) == 0, job.log.read_text()
    counts = workers_by_step(job)
    by_step = [counts[step] for step in sorted(counts)]
    changes = [n for i, n in enumerate(by_step) if i == 0 or n != by_step[i - 1]]
    assert changes == [2, 1, 2], counts
    assert_same(job, undisturbed)


def test_a_notice_leads_to_a_checkpoint_at_once(tmp_path: Path, undisturbed: JobProcess) -> None:
    with ray_nodes(3) as nodes:
        job = small_job_process(
            tmp_path, *OVERRIDES, "scale.workers=2", "scale.max_failures=0",
            f"scale.address='{nodes.address}'",
        )  # fmt: skip
        job.start()
        job.wait_for_step(150)
        busy = _node_of_a_worker(nodes)
        nodes.drain(busy, 8)
        end = time.monotonic() + 60
        while all(s % 100 == 0 for s in job.checkpoints()) and time.monotonic() < end:
            time.sleep(0.1)
        assert any(s % 100 for s in job.checkpoints()), "no checkpoint between the regular ones"
        time.sleep(8)
        nodes.kill(busy)
        assert job.wait(500) == 0, job.log.read_text()
    assert_same(job, undisturbed)


def _node_of_a_worker(nodes: object) -> object:
    import psutil

    for node in nodes.nodes:  # type: ignore[attr-defined]
        raylet = node.all_processes["raylet"][0].process.pid
        for process in psutil.Process(raylet).children(recursive=True):
            if "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                return node
    raise AssertionError("no worker runs")
