"""Runs a training stage under Ray Train: resources, restarts, progress, result."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.table import Table

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.config import RunConfig, dump_job
from p5dist.config.places import with_absolute_places
from p5dist.config.scale import Scale
from p5dist.config.train import Finetune
from p5dist.data.manifest import Manifest
from p5dist.environment.console import console, progress
from p5dist.environment.provenance import provenance
from p5dist.environment.resources import in_words, scaling, worker_resources
from p5dist.errors import StoppedError
from p5dist.feed.mix import Mix, open_mix
from p5dist.feed.order import total_steps
from p5dist.observe.events import Callback, Closed, Failed, Stopping, tell
from p5dist.observe.metrics_log import read_metrics, read_validation
from p5dist.storage import Folder, RunFolder
from p5dist.tasks.needs import check_training, prepare_tasks
from p5dist.train.callbacks.errors_log import ErrorsLog
from p5dist.train.callbacks.summary import Summary
from p5dist.train.callbacks.terminal import LogLines, ProgressBar
from p5dist.train.failures import FailureNews, explain, own_packages
from p5dist.train.handover import FEED, Feed, LaneDataConfig, train_worker
from p5dist.train.initial import REPORT as INIT_REPORT
from p5dist.train.initial import Report
from p5dist.train.monitor import Monitor
from p5dist.train.private.budget import budget_of, secret_of
from p5dist.train.private.outcome import lines, outcome
from p5dist.train.starts import check_start

_SNAPSHOT = "checkpoint_manager_snapshot.json"
_REFRESH_S = 0.5

# Read by Ray Train where the controller starts; a user's own settings win.
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a failed worker is noticed in 0.5 s, not in 2 s
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a worker that does not answer is lost
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # then fewer workers are tried
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}


def run(
    job: RunConfig,
    folder: RunFolder,
    stage: str,
    callbacks: Sequence[Callback] = (),
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Train ``stage`` (``pretrain`` or ``finetune/<task>``) from its newest checkpoint to its end.

    Args:
        callbacks: hear the events of the stage in this process, beside the callbacks that show
            progress.
        stop: set by another thread, it ends the stage after a checkpoint.

    Raises:
        ResourceError: the cluster is too small; found before anything starts, as are:
        DataError, ConfigError: the data has nothing to learn from, or does not fit the settings.
        CheckpointError: the weights that init_from names are not there.
        StoppedError: SIGTERM, Ctrl-C or ``stop``, after a checkpoint.
        TrainingError: the worker group failed more often than ``scale.max_failures`` allows, or
            with an error that no restart heals.
    """
    began = time.time()
    stage_folder = folder.training(stage).make()
    manifest = Manifest.load(folder.prepare)
    check_training(job, stage, folder)
    prepare_tasks(job, stage, folder)
    check_start(job, stage, folder)
    mix = open_mix(job, stage, folder, manifest)
    budget = budget_of(job, stage, manifest, mix.own.order)
    training = job.trainings()[stage]
    if budget is not None and isinstance(training, Finetune):
        secret_of(training, stage)  # found here, not by every worker
    resources = worker_resources(job.scale)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    monitor = ray.remote(Monitor).options(num_cpus=0, scheduling_strategy=here).remote()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    trainer = _trainer(job, folder, stage, mix, resources, monitor)
    summary = Summary()
    with progress("steps") as bar:
        everybody = [
            summary,
            LogLines(job.name, stage),
            ErrorsLog(stage_folder),
            *callbacks,
            ProgressBar(bar, stage),
        ]
        wanted = stop or threading.Event()
        _watch(lambda: _fit(trainer, job.scale, monitor, stage_folder), monitor, everybody, wanted)
    if summary.plan is not None:
        console.print(plan_table(summary.plan))
    if (stage_folder / INIT_REPORT).exists():
        for line in Report(**(stage_folder / INIT_REPORT).read_json()).lines():
            console.print(f"  {line}", soft_wrap=True, markup=False)
    for line in _ended(stage_folder, total_steps(training, mix.own.order)):
        console.print(f"  {line}", soft_wrap=True, markup=False)
    logged = read_metrics(stage_folder)
    result: dict[str, Any] = {
        "steps": logged[-1]["step"] if logged else 0,
        "loss": logged[-1]["loss"] if logged else None,
        "restarts": max(summary.starts - 1, 0),
        "workers": summary.workers,
        "checkpoint": Checkpoints(stage_folder / "checkpoints").best().folder.name,
        **provenance(job, stage, data=manifest.fingerprint, seconds=time.time() - began),
    }
    if budget is not None:
        result["privacy"] = outcome(budget, mix.own.order, stage_folder, result["steps"])
        for line in lines(result["privacy"]):
            console.print(f"  {line}", soft_wrap=True, markup=False)
    (stage_folder / "result.json").write_json(result)
    return result


def _ended(stage_folder: Folder, total: int) -> list[str]:
    """How a validated stage ended, in words."""
    validated = read_validation(stage_folder)
    if not validated:
        return []
    checkpoints = Checkpoints(stage_folder / "checkpoints")
    best, last = checkpoints.best(), checkpoints.require().step
    value = next((v for v in validated if v["step"] == best.step), None)
    found = []
    if last < total:
        found.append(f"ended early, after {last:,} of {total:,} steps: no validation was better")
    if value is not None:
        found.append(f"best: {value['metric']} {value['value']:.4f} after {best.step:,} steps")
    if best.step == 0:
        found.append("warning: training did not improve on what the stage started from")
    return found


def _trainer(
    job: RunConfig,
    folder: RunFolder,
    stage: str,
    mix: Mix,
    resources: dict[str, float],
    monitor: Any,
) -> TorchTrainer:
    training = job.trainings()[stage]
    mix.check(job)
    feed = Feed(mix.readers(job, training), job.feed.unit_rows, job.feed.read_ahead)
    scale = job.scale
    gpu = "GPU" in resources
    threads = max(int(resources["CPU"]), 1)
    console.print(
        f"  {total_steps(training, mix.own.order):,} steps of {training.batch_size} histories on "
        f"{in_words(scale)} "
        f"({resources['CPU']:g} CPU{' and a GPU' if gpu else ''} each)"
    )
    if len(mix.sets) > 1:
        parts = [f"{share:.0%} {name or 'own data'}" for name, share in mix.shares.items()]
        console.print(f"  every batch: {', '.join(parts)}")
    parent = folder.training(stage).path.rsplit("/", 1)[0]
    return TorchTrainer(
        train_worker,
        train_loop_config={
            "job": dump_job(with_absolute_places(job)), "stage": stage, "threads": threads,
            "monitor": monitor, "own": own_packages(job),
        },
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=int(scale.timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            use_gpu=gpu, resources_per_worker=resources, **scaling(scale)
        ),
        run_config=ray.train.RunConfig(
            name=stage.rsplit("/", 1)[-1],
            callbacks=[FailureNews(monitor)],
            storage_path=parent,
            storage_filesystem=folder.root.fs,
            failure_config=ray.train.FailureConfig(
                max_failures=scale.max_failures,
                max_preemption_failures=-1
                if scale.max_preemptions is None
                else scale.max_preemptions,
            ),
            worker_runtime_env={
                "env_vars": {
                    "OMP_NUM_THREADS": str(threads),
                    # How long survivors of a lost worker may take to leave their group.
                    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3",
                }
            },
        ),
        datasets={FEED: lambda: feed},
        dataset_config=LaneDataConfig(),
    )  # fmt: skip


def _fit(trainer: TorchTrainer, scale: Scale, monitor: Any, stage_folder: Folder) -> None:
    """Ray Train restarts the workers; where it gives up at once (a group that does not come up)
    it is started again here, equally bounded."""
    for attempt in range(scale.max_failures + 1):
        # Derived from our markers, and a stale one would keep Ray Train from starting.
        (stage_folder / _SNAPSHOT).remove()
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as e:
            final = ray.get(monitor.error.remote())
            if final is not None:
                raise final from None
            error = explain(e, scale, stage_folder)
            if not isinstance(e, ray.train.ControllerError):
                raise error from e
            ray.get(monitor.tell.remote(Failed(str(error.value), {0: str(e)})))
            if attempt == scale.max_failures:
                raise error from e
            continue
        error = ray.get(monitor.error.remote())
        if error is not None:
            raise error
        step = ray.get(monitor.stopped_at.remote())
        if step is not None:
            raise StoppedError(
                f"stopped as asked, with a checkpoint after step {step}",
                where=str(stage_folder),
                fix="start the same command again: it continues from there",
            )  # fmt: skip
        return


def _watch(
    fit: Callable[[], None], monitor: Any, callbacks: Sequence[Callback], wanted: threading.Event
) -> None:
    """Run ``fit`` in a thread; hand events to the callbacks, and pass a request to stop on to the
    workers. (In the main thread Ray Train would take Ctrl-C as an order to abort.)"""
    failed: list[BaseException] = []

    def run_fit() -> None:
        try:
            fit()
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=run_fit, daemon=True)
    try:
        with _stop_requests(wanted):
            thread.start()
            told, running = False, True
            while running:
                thread.join(_REFRESH_S)
                running = thread.is_alive()  # asked first, so that the last events are told
                if wanted.is_set() and not told:
                    monitor.ask_to_stop.remote()
                    told = True
                    tell(callbacks, Stopping())
                for event in ray.get(monitor.events.remote()):
                    tell(callbacks, event)
    finally:
        tell(callbacks, Closed())
    if failed:
        raise failed[0]


@contextmanager
def _stop_requests(wanted: threading.Event) -> Iterator[None]:
    """SIGTERM or the first Ctrl-C sets ``wanted``; a second Ctrl-C ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: Any) -> None:
        if wanted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        wanted.set()

    before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
