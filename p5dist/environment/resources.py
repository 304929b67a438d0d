"""The number of workers of a stage, and the resources that each worker or actor reserves."""

from __future__ import annotations

import math
from typing import Any

import ray

from p5dist.config.scale import Elastic, Scale
from p5dist.errors import ResourceError


def worker_resources(scale: Scale) -> dict[str, float]:
    """The resources that each worker reserves. By default the workers leave one CPU for reading
    data; if they reserve all CPUs, reading still works, since its tasks reserve nothing.

    Raises:
        ResourceError: the cluster does not have the resources.
    """
    cpus_of_nodes, gpus_of_nodes = _nodes("CPU"), _nodes("GPU")
    cpus, gpus = sum(cpus_of_nodes), sum(gpus_of_nodes)
    if scale.cpus_per_worker is None:
        if scale.fewest_workers > cpus:
            raise ResourceError(
                "more workers than the cluster has CPUs", where="scale.workers",
                value=scale.fewest_workers, rule=f"this cluster has {cpus:g} CPUs",
                fix="use fewer workers or a larger cluster, or set scale.cpus_per_worker to a "
                "fraction to put several workers on one CPU",
            )  # fmt: skip
        left = cpus - 1 if cpus >= 2 else cpus / 2
        share = _share(cpus_of_nodes, scale.most_workers, left)
    else:
        share = scale.cpus_per_worker
        if _room(cpus_of_nodes, share) < scale.fewest_workers:
            raise ResourceError(
                "the cluster does not have enough CPUs", where="scale",
                value=f"{scale.fewest_workers} workers · {share:g} CPUs",
                rule=f"this cluster has {cpus:g} CPUs on {len(cpus_of_nodes)} nodes",
                fix="lower scale.workers or scale.cpus_per_worker",
            )  # fmt: skip
    resources = {"CPU": share}
    if scale.device == "cuda" and gpus < scale.fewest_workers:
        raise ResourceError(
            "more workers than the cluster has GPUs", where="scale.workers",
            value=scale.fewest_workers,
            rule=f"this cluster has {gpus:g} GPUs", fix="use fewer workers, or scale.device: cpu",
        )  # fmt: skip
    if scale.device == "cuda" or (scale.device == "auto" and gpus >= scale.most_workers):
        resources["GPU"] = 1.0
    return resources


def cpus_of_actor(actors: int) -> float:
    """CPUs that each of ``actors`` equal actors reserves, if they have the cluster to
    themselves."""
    cpus_of_nodes = _nodes("CPU")
    return _share(cpus_of_nodes, actors, sum(cpus_of_nodes))


def gpu_for_actors(scale: Scale, actors: int) -> bool:
    """Whether each of ``actors`` equal actors has a GPU."""
    gpus = sum(_nodes("GPU"))
    return scale.device != "cpu" and gpus >= (1 if scale.device == "cuda" else actors)


def _nodes(resource: str) -> list[float]:
    """Amount of the resource on each node."""
    return [node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]]


def _share(cpus_of_nodes: list[float], workers: int, left: float) -> float:
    """The largest whole number of CPUs per worker, else the largest 1/k of a CPU, such that all
    workers find room and together take at most ``left`` CPUs."""
    for share in range(int(left / workers), 0, -1):
        if _room(cpus_of_nodes, share) >= workers:
            return float(share)
    return int(1000 / math.ceil(workers / left)) / 1000


def _room(cpus_of_nodes: list[float], share: float) -> int:
    """Number of workers that find room; each worker is on one node."""
    return sum(int(cpus / share + 1e-9) for cpus in cpus_of_nodes)


def scaling(scale: Scale) -> dict[str, Any]:
    """The number of workers as arguments of Ray Train's ScalingConfig."""
    if not isinstance(scale.workers, Elastic):
        return {"num_workers": scale.workers}
    return {
        "num_workers": (scale.workers.min, scale.workers.max),
        "elastic_resize_monitor_interval_s": scale.workers.resize_every_s,
    }


def in_words(scale: Scale) -> str:
    """The number of workers as text."""
    if isinstance(scale.workers, Elastic):
        return f"{scale.workers.min} to {scale.workers.max} workers"
    return "1 worker" if scale.workers == 1 else f"{scale.workers} workers"
