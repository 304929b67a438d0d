"""A worker hangs or runs out of memory: another worker replaces it, and the result equals that of
an undisturbed run. tests/end_to_end stops and kills the driver."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.jobs import JobProcess, leftovers, losses_without_ray, small_job_process
from tests.small_data import small_job, write_small_data

pytestmark = pytest.mark.slow
STEPS = ("pretrain.steps=400", "pretrain.checkpoint.every=50", "finetune={}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    job = small_job(tmp_path_factory.mktemp("prepared"), *STEPS)
    write_small_data(job)
    return losses_without_ray(job, tmp_path_factory.mktemp("undisturbed"))


def assert_same(job: JobProcess, undisturbed: list[float]) -> None:
    assert [step for step, _ in job.losses()] == list(range(1, 401))
    assert [loss for _, loss in job.losses()] == pytest.approx(undisturbed, rel=1e-5)
    assert job.checkpoints()[-1] == 400
    assert leftovers(job.stage) == []


def gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there a minute later."""
    return psutil.wait_procs(processes, timeout=60)[1]


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, undisturbed: list[float]) -> None:
    """SIGSTOP: the others notice when a collective takes longer than scale.timeout_s."""
    job = small_job_process(tmp_path, *STEPS, "scale.workers=2", "scale.timeout_s=5")
    job.start()
    job.wait_for_step(60)
    workers = job.workers()
    assert len(workers) == 2
    os.kill(workers[-1].pid, signal.SIGSTOP)
    began = time.monotonic()
    assert job.wait() == 0, job.log.read_text()
    assert_same(job, undisturbed)
    assert gone(workers) == []
    assert (job.stage / "result.json").read_json()["restarts"] == 1
    assert time.monotonic() - began > 5


def test_the_kernel_kills_a_worker_that_has_no_memory_left(
    tmp_path: Path, undisturbed: list[float]
) -> None:
    job = small_job_process(tmp_path, *STEPS, "scale.workers=2")
    job.start()
    job.wait_for_step(60)
    workers = job.workers()
    with memory_limit(4 << 20, workers[-1].pid):
        assert psutil.wait_procs(workers[-1:], timeout=60)[0], "the worker lives on"
    assert job.wait() == 0, job.log.read_text()
    assert_same(job, undisturbed)
    assert (job.stage / "result.json").read_json()["restarts"] == 1


@contextmanager
def memory_limit(bytes_: int, pid: int) -> Iterator[None]:
    """A control group of the kernel that lets a process take ``bytes_`` more."""
    root = Path("/sys/fs/cgroup")
    old = (root / "memory").is_dir()
    group = root / ("memory" if old else "") / f"p5dist-test-{pid}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if old else "memory.max")
        limit.write_text(str(bytes_))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as e:
        pytest.skip(f"no control group can be made here: {e}")
    try:
        yield
    finally:
        group.rmdir()
