"""Tracking in MLflow: the resolved job as parameters, numbers by step, the evaluation. Training
never waits for the server, and continues without it.

A thread of p5dist logs the numbers instead of MLflow's asynchronous logging (3.17), which opens a
run synchronously, tries every batch even if the server is unreachable, logs an error with the
server's URL and password for each batch, and lets the process end only after the last batch has
failed, however long that takes.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from p5dist.config import RunConfig
from p5dist.environment.redact import redact, redact_text
from p5dist.errors import InstallError, StoppedError
from p5dist.observe.events import Callback, Event, Logged, Saved, Validated

Metrics = Callable[[dict[str, float], int], None]
"""Takes numbers by name, and the number of steps taken when they were measured."""

_Numbers = tuple[dict[str, float], int]

# Give up an unreachable server soon.
_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_CLOSE_S = 20.0
_PARAMETERS = 100  # MLflow's limit per request
_VALUE_CHARACTERS = 500
_RUN_TAG = "p5dist.run"

log = logging.getLogger(__name__)


class Tracker:
    """The MLflow run of a run folder, continued if it exists; a separate thread talks to the
    server.

    Args:
        run: the run folder; identifies the MLflow run when the job continues.

    Raises:
        InstallError: mlflow is not installed.
    """

    def __init__(self, job: RunConfig, run: str) -> None:
        uri = job.tracking.mlflow
        assert uri is not None
        for name, value in _QUICK.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow
        except ImportError as e:
            raise InstallError(
                "tracking.mlflow needs a package that is not installed", where="tracking.mlflow",
                value=redact_text(uri),
                fix="pip install 'mlflow>=3,<4' (p5dist's extra mlflow), or leave tracking out",
            ) from e  # fmt: skip
        for noisy in ("mlflow", "alembic"):  # they log the creation of a new store's tables
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._mlflow: Any = mlflow
        self._uri = uri
        self._job = job
        self._run = redact_text(run)
        self._calls: queue.SimpleQueue[_Numbers | str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log numbers measured after ``step`` steps; returns at once."""
        self._calls.put((values, step))

    def close(self, status: str) -> None:
        """Wait until everything is logged, at most 20 s.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        self._calls.put(status)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            log.warning("MLflow is slow; not all numbers were logged there")

    def _work(self) -> None:
        try:
            client = self._mlflow.MlflowClient(self._uri)
            run_id = self._open(client)
            entities = self._mlflow.entities
            while not isinstance(call := self._calls.get(), str):
                values, step = call
                now = int(time.time() * 1000)
                numbers = [
                    entities.Metric(name.replace("@", "_at_"), value, now, step)
                    for name, value in values.items()
                ]
                client.log_batch(run_id, metrics=numbers)
            client.set_terminated(run_id, call)
        except Exception as e:  # training does not depend on MLflow, whatever fails
            text = next(iter(str(e).splitlines()), repr(e))
            log.warning(redact_text(f"logging in MLflow stopped ({self._uri}): {text}"))

    def _open(self, client: Any) -> str:
        name = self._job.tracking.experiment
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        quoted = self._run.replace("'", "")
        runs = client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{quoted}'", max_results=1)
        if runs:
            run = runs[0]
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = client.create_run(
                experiment, tags={_RUN_TAG: quoted}, run_name=self._job.name
            )  # fmt: skip
        known = run.data.params
        fresh = {
            k: v[:_VALUE_CHARACTERS] for k, v in parameters(self._job).items() if k not in known
        }
        entities = [self._mlflow.entities.Param(k, v) for k, v in fresh.items()]
        for start in range(0, len(entities), _PARAMETERS):
            client.log_batch(run.info.run_id, params=entities[start : start + _PARAMETERS])
        return str(run.info.run_id)


class Tracked(Callback):
    """Tracks the numbers of a stage under the name of the stage."""

    def __init__(self, stage: str, metrics: Metrics) -> None:
        self._stage = stage
        self._metrics = metrics

    def on(self, event: Event) -> None:
        match event:
            case Logged(step=step, loss=loss, lr=lr, samples_per_second=rate):
                numbers = {"lr": lr, "samples_per_second": rate}
                self._tell(numbers if loss is None else {"loss": loss, **numbers}, step)
            case Validated(step, metric, value):
                self._tell({f"validation/{metric}": value}, step)
            case Saved(step, seconds):
                self._tell({"checkpoint_seconds": seconds}, step)

    def _tell(self, values: dict[str, float], step: int) -> None:
        self._metrics({f"{self._stage}/{name}": value for name, value in values.items()}, step)


@contextmanager
def tracker(job: RunConfig, run: str) -> Iterator[Tracker | None]:
    """The tracker that the job asks for, closed at the end."""
    if job.tracking.mlflow is None:
        yield None
        return
    made = Tracker(job, run)
    try:
        yield made
    except BaseException as e:
        made.close("KILLED" if isinstance(e, (StoppedError, KeyboardInterrupt)) else "FAILED")
        raise
    made.close("FINISHED")


def parameters(job: RunConfig) -> dict[str, str]:
    """The resolved job by dotted key, without secrets and without settings that are None."""
    found: dict[str, str] = {}

    def visit(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, below in value.items():
                visit(below, f"{key}.{name}" if key else name)
        elif value is not None:
            found[key] = str(value)

    visit(redact(job.model_dump(mode="json")), "")
    return found


def evaluation(result: dict[str, Any]) -> dict[str, float]:
    """The metrics of ``evaluate/result.json`` by name; with several tasks also by task path."""
    found = {f"evaluate/{name}": float(m["value"]) for name, m in result["metrics"].items()}
    tasks = result.get("tasks", {})
    for path, task in tasks.items() if len(tasks) > 1 else ():
        found |= {f"evaluate/{path}/{k}": float(m["value"]) for k, m in task["metrics"].items()}
    return found
