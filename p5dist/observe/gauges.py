"""A stage on the dashboards of the cluster: Ray's metrics agents export it to Prometheus."""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Gauge

from p5dist.observe.listener import Listener
from p5dist.observe.metrics_log import DATA

_GAUGES = {
    "step": "Steps taken.",
    "loss": "Loss of the logged step.",
    "samples_per_second": "Histories a second over all workers.",
    "data_wait_share": "Part (0 to 1) of its time that the first worker waited for data.",
    "checkpoint_seconds": "Seconds that the newest complete checkpoint took.",
    "restarts": "Starts of the workers of this stage after the first one.",
}


class Gauges(Listener):
    """``p5dist_<name>`` with the tags ``run`` and ``stage``; the process is a worker of Ray."""

    def __init__(self, run: str, stage: str, restarts: int) -> None:
        self._gauges = {
            name: Gauge(f"p5dist_{name}", description=text, tag_keys=("run", "stage"))
            for name, text in _GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run, "stage": stage})
        self._gauges["restarts"].set(restarts)

    def log(self, values: dict[str, Any]) -> None:
        seconds = values["seconds"]
        told = {name: values[name] for name in ("step", "loss", "samples_per_second")}
        told["data_wait_share"] = seconds[DATA] / (sum(seconds.values()) or 1.0)
        for name, value in told.items():
            if value is not None:  # the loss of a step that was skipped
                self._gauges[name].set(value)

    def saved(self, step: int, seconds: float) -> None:
        self._gauges["checkpoint_seconds"].set(seconds)
