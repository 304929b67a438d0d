"""The resources of the cluster are checked before a stage starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from p5dist.config.scale import Scale
from p5dist.environment.resources import cpus_of_actor, worker_resources
from p5dist.errors import ResourceError
from p5dist.train import driver
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


@pytest.mark.parametrize(
    ("nodes", "workers", "share"),
    [
        ((2, 2, 2), 2, 2),  # 5 CPUs are left: two each, one worker a node
        ((2, 2, 2), 3, 1),
        ((3, 3, 3), 2, 3),  # four each would be more than a node has
        ((8, 1), 2, 4),  # both on the first node
        ((3,), 3, 0.5),
        ((4, 4), 8, 0.5),  # 7 are left, and a worker must be on one node
    ],
)
def test_a_worker_finds_room_on_one_node(
    nodes: tuple[int, ...], workers: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [{"Alive": True, "Resources": {"CPU": float(cpus)}} for cpus in nodes]
    lost = {"Alive": False, "Resources": {"CPU": 64.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [*listed, lost])
    assert worker_resources(Scale(workers=workers, device="cpu")) == {"CPU": share}


@pytest.mark.parametrize(
    ("nodes", "actors", "share"),
    [((2, 2, 2), 1, 2), ((2, 2, 2), 2, 2), ((2, 2, 2), 4, 1), ((4,), 2, 2), ((2,), 4, 0.5)],
)
def test_a_scoring_actor_finds_room_on_one_node(
    nodes: tuple[int, ...], actors: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [{"Alive": True, "Resources": {"CPU": float(cpus)}} for cpus in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    assert cpus_of_actor(actors) == share


def test_a_share_that_no_node_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}] * 3
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(ResourceError, match=r"6 CPUs on 3 nodes(.|\n)*scale\.cpus_per_worker"):
        worker_resources(Scale(workers=1, cpus_per_worker=3, device="cpu"))


def test_gpus_that_are_not_there(ray_session: None) -> None:
    if ray.cluster_resources().get("GPU", 0) >= 1:
        pytest.skip("this machine has a GPU")
    with pytest.raises(ResourceError, match=r"scale\.device: cpu"):
        worker_resources(Scale(workers=1, device="cuda"))
