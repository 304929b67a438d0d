"""Runs a training stage under Ray Train: resources, restarts, progress, result."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from rich.table import Table

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.config import RunConfig, dump_job
from p5dist.config.scale import Scale
from p5dist.console import console, progress
from p5dist.errors import P5Error, ResourceError, TrainingError
from p5dist.manifest import Manifest
from p5dist.provenance import provenance
from p5dist.storage import Folder, RunFolder
from p5dist.train.metrics import read_metrics
from p5dist.train.session import lane_order, total_steps, unit_reader
from p5dist.train.worker import FEED, Feed, LaneDataConfig, Monitor, train_worker

_READER_CPUS = 0.5  # what Ray Data needs at least to read while all workers run
_SNAPSHOT = "checkpoint_manager_snapshot.json"


def run(job: RunConfig, folder: RunFolder, stage: str) -> dict[str, Any]:
    """Train ``stage`` (``pretrain`` or ``finetune/<task>``) from where it was left to its end.

    Raises:
        ResourceError: the cluster is too small; found before anything starts.
        TrainingError: the worker group failed more often than ``scale.max_failures`` allows.
    """
    began = time.time()
    place = folder.training(stage).make()
    manifest = Manifest.load(folder.prepare)
    resources = worker_resources(job.scale)
    monitor = ray.remote(Monitor).options(num_cpus=0).remote()
    trainer = _trainer(job, folder, stage, manifest, resources, monitor)
    with _show_progress(monitor, stage):
        _fit(trainer, job.scale, monitor, place)
    figures, starts, _ = ray.get(monitor.state.remote())
    if "plan" in figures:
        console.print(plan_table(figures["plan"]))
    logged = list(read_metrics(place))
    result = {
        "steps": logged[-1]["step"] if logged else 0,
        "loss": logged[-1]["loss"] if logged else None,
        "restarts": max(starts - 1, 0),
        "workers": job.scale.workers,
        "checkpoint": Checkpoints(place / "checkpoints").require().folder.name,
        **provenance(job, stage, data=manifest.fingerprint, seconds=time.time() - began),
    }
    (place / "result.json").write_json(result)
    return result


def worker_resources(scale: Scale) -> dict[str, float]:
    """What each worker reserves, one CPU being left for reading data.

    Raises:
        ResourceError: the cluster does not have it.
    """
    cluster = ray.cluster_resources()
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if scale.cpus_per_worker is None:
        if scale.workers > cpus:
            raise ResourceError(
                "more workers than the cluster has CPUs", where="scale.workers",
                value=scale.workers, rule=f"this cluster has {cpus:g} CPUs",
                fix="use fewer workers or a larger cluster, or set scale.cpus_per_worker to a "
                "fraction to put several workers on one CPU",
            )  # fmt: skip
        left = cpus - 1 if cpus >= 2 else cpus - _READER_CPUS
        share = left / scale.workers
        share = float(int(share)) if share >= 1 else int(share * 1000) / 1000
    else:
        share = scale.cpus_per_worker
        if share * scale.workers + _READER_CPUS > cpus:
            raise ResourceError(
                "the cluster has not enough CPUs", where="scale",
                value=f"{scale.workers} workers · {share:g} CPUs",
                rule=f"this cluster has {cpus:g} CPUs, of which {_READER_CPUS} read data",
                fix="lower scale.workers or scale.cpus_per_worker",
            )  # fmt: skip
    resources = {"CPU": share}
    if scale.device == "cuda" and gpus < scale.workers:
        raise ResourceError(
            "more workers than the cluster has GPUs", where="scale.workers", value=scale.workers,
            rule=f"this cluster has {gpus:g} GPUs", fix="use fewer workers, or scale.device: cpu",
        )  # fmt: skip
    if scale.device == "cuda" or (scale.device == "auto" and gpus >= scale.workers):
        resources["GPU"] = 1.0
    return resources


def _trainer(
    job: RunConfig,
    folder: RunFolder,
    stage: str,
    manifest: Manifest,
    resources: dict[str, float],
    monitor: Any,
) -> TorchTrainer:
    training = job.trainings()[stage]
    order = lane_order(job, training, manifest)
    feed = Feed(
        unit_reader(job, folder, training, manifest, order), job.feed.unit_rows, job.feed.read_ahead
    )
    scale = job.scale
    gpu = "GPU" in resources
    threads = max(int(resources["CPU"]), 1)
    console.print(
        f"  {total_steps(training, order):,} steps of {training.batch_size} histories on "
        f"{scale.workers} worker{'s' if scale.workers > 1 else ''} "
        f"({resources['CPU']:g} CPU{' and a GPU' if gpu else ''} each)"
    )
    parent = folder.training(stage).path.rsplit("/", 1)[0]
    return TorchTrainer(
        train_worker,
        train_loop_config={
            "job": dump_job(_absolute(job)), "stage": stage, "threads": threads,
            "monitor": monitor,
        },
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=int(scale.timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scale.workers, use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=stage.rsplit("/", 1)[-1],
            storage_path=parent,
            storage_filesystem=folder.root.fs,
            failure_config=ray.train.FailureConfig(max_failures=scale.max_failures),
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        ),
        datasets={FEED: lambda: feed},
        dataset_config=LaneDataConfig(),
    )  # fmt: skip


def _absolute(job: RunConfig) -> RunConfig:
    """The job with a storage that means the same in every worker's folder."""
    if "://" in job.storage:
        return job
    return job.model_copy(update={"storage": os.path.abspath(job.storage)})  # noqa: PTH100


def _fit(trainer: TorchTrainer, scale: Scale, monitor: Any, place: Folder) -> None:
    """Ray Train restarts the workers; where it gives up at once (a group that does not come up)
    it is started again here, equally bounded."""
    for attempt in range(scale.max_failures + 1):
        # Derived from our markers, and a stale one would keep Ray Train from starting.
        (place / _SNAPSHOT).remove()
        try:
            trainer.fit()
        except ray.train.ControllerError as e:
            if attempt == scale.max_failures:
                raise _explain(e, scale, place) from e
            continue
        except ray.train.TrainingFailedError as e:
            raise _explain(e, scale, place) from e
        error = ray.get(monitor.state.remote())[2]
        if error is not None:
            raise error
        return


def _explain(error: Exception, scale: Scale, place: Folder) -> P5Error:
    """The worker's own error where it is one of ours, else its last line."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, P5Error):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    first = next(iter(failures.values()), error)
    lines = [line for line in str(first).strip().splitlines() if line.strip()]
    return TrainingError(
        "the workers failed more often than allowed",
        where=str(place),
        value=lines[-1] if lines else repr(first),
        rule=f"scale.max_failures = {scale.max_failures}",
        fix="start the same command again: it continues from the last complete checkpoint",
    )


@contextmanager
def _show_progress(monitor: Any, stage: str) -> Iterator[None]:
    """A bar with step, rate, loss and time left while the block runs."""
    finished = threading.Event()

    def show() -> None:
        with progress("steps") as bar:
            task = bar.add_task(stage, total=None, note="starting workers")
            while True:
                last = finished.wait(0.5)
                figures, starts, _ = ray.get(monitor.state.remote())
                if figures:
                    note = f"restart {starts - 1}  " if starts > 1 else ""
                    if "loss" in figures:
                        note += (
                            f"loss {figures['loss']:.4f}  {figures['samples_per_second']:,.0f}/s"
                        )
                    bar.update(task, completed=figures["step"], total=figures["total"], note=note)
                if last:
                    return

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def plan_table(plan: dict[str, Any]) -> Table:
    """Which worker holds which part of which table."""
    table = Table(title="tables on the workers", title_justify="left", box=None)
    for name in ("table", "sharding", "rows", "dim", "workers"):
        table.add_column(name)
    for entry in plan["tables"]:
        table.add_row(
            entry["table"], entry["sharding"], f"{entry['rows']:,}", str(entry["dim"]),
            ", ".join(map(str, entry["ranks"])),
        )  # fmt: skip
    return table
