"""How many workers a stage gets, and what each reserves."""

from __future__ import annotations

from typing import Any

import ray

from p5dist.config.scale import Elastic, Scale
from p5dist.errors import ResourceError

_READER_CPUS = 0.5  # what Ray Data needs at least to read while all workers run


def worker_resources(scale: Scale) -> dict[str, float]:
    """What each worker reserves, one CPU being left for reading data.

    Raises:
        ResourceError: the cluster does not have it.
    """
    cluster = ray.cluster_resources()
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if scale.cpus_per_worker is None:
        if scale.fewest_workers > cpus:
            raise ResourceError(
                "more workers than the cluster has CPUs", where="scale.workers",
                value=scale.fewest_workers, rule=f"this cluster has {cpus:g} CPUs",
                fix="use fewer workers or a larger cluster, or set scale.cpus_per_worker to a "
                "fraction to put several workers on one CPU",
            )  # fmt: skip
        left = cpus - 1 if cpus >= 2 else cpus - _READER_CPUS
        share = left / scale.most_workers
        share = float(int(share)) if share >= 1 else int(share * 1000) / 1000
    else:
        share = scale.cpus_per_worker
        if share * scale.fewest_workers + _READER_CPUS > cpus:
            raise ResourceError(
                "the cluster has not enough CPUs", where="scale",
                value=f"{scale.fewest_workers} workers · {share:g} CPUs",
                rule=f"this cluster has {cpus:g} CPUs, of which {_READER_CPUS} read data",
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


def scaling(scale: Scale) -> dict[str, Any]:
    """The number of workers as Ray Train's ScalingConfig takes it."""
    if not isinstance(scale.workers, Elastic):
        return {"num_workers": scale.workers}
    return {
        "num_workers": (scale.workers.min, scale.workers.max),
        "elastic_resize_monitor_interval_s": scale.workers.resize_every_s,
    }


def in_words(scale: Scale) -> str:
    """The number of workers for a person."""
    if isinstance(scale.workers, Elastic):
        return f"{scale.workers.min} to {scale.workers.max} workers"
    return "1 worker" if scale.workers == 1 else f"{scale.workers} workers"
