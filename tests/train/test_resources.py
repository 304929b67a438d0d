"""What the cluster must have is checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from p5dist.config.scale import Scale
from p5dist.errors import ResourceError
from p5dist.train import driver
from p5dist.train.resources import worker_resources
from tests.small_data import small_job, write_small_data


def test_more_workers_than_cpus(tmp_path: Path, ray_session: None) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    job = small_job(tmp_path, f"scale.workers={cpus + 1}", f"feed.lanes={12 * (cpus + 1)}",
                    f"pretrain.batch_size={12 * (cpus + 1)}",
                    f"finetune.rating.batch_size={12 * (cpus + 1)}")  # fmt: skip
    folder = write_small_data(job)
    with pytest.raises(ResourceError, match=rf"more workers .*(.|\n)*has {cpus} CPUs"):
        driver.run(job, folder, "pretrain")
    assert not (folder.training("pretrain") / "checkpoints").exists()


def test_workers_leave_a_cpu_for_reading(ray_session: None) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    for workers in range(1, cpus + 1):
        share = worker_resources(Scale(workers=workers, device="cpu"))["CPU"]
        assert 0 < share * workers <= cpus - 0.5


def test_a_share_that_leaves_nothing_is_refused(ray_session: None) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    with pytest.raises(ResourceError, match=r"scale\.workers or scale\.cpus_per_worker"):
        worker_resources(Scale(workers=1, cpus_per_worker=cpus, device="cpu"))


def test_gpus_that_are_not_there(ray_session: None) -> None:
    if ray.cluster_resources().get("GPU", 0) >= 1:
        pytest.skip("this machine has a GPU")
    with pytest.raises(ResourceError, match=r"scale\.device: cpu"):
        worker_resources(Scale(workers=1, device="cuda"))
