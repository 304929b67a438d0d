"""Gauges of a training stage for the dashboards of the cluster; Ray's metrics agents export them to
Prometheus."""

from __future__ import annotations

from ray.util.metrics import Gauge

from p5dist.observe.events import Callback, Event, Logged, Saved
from p5dist.observe.metrics_log import DATA

_GAUGES = {
    "step": "Steps taken.",
    "loss": "Loss of the logged step.",
    "samples_per_second": "Histories per second over all workers.",
    "data_wait_share": "Share (0 to 1) of the time that the first worker waited for data.",
    "checkpoint_seconds": "Seconds that the newest complete checkpoint took.",
    "restarts": "Restarts of the workers of this stage.",
}


class Gauges(Callback):
    """``p5dist_<name>`` with the tags ``run`` and ``stage``; needs a Ray worker process."""

    def __init__(self, run: str, stage: str, restarts: int) -> None:
        self._gauges = {
            name: Gauge(f"p5dist_{name}", description=text, tag_keys=("run", "stage"))
            for name, text in _GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run, "stage": stage})
        self._gauges["restarts"].set(restarts)

    def on(self, event: Event) -> None:
        match event:
            case Logged():
                whole = sum(event.seconds.values()) or 1.0
                self._gauges["step"].set(event.step)
                if event.loss is not None:
                    self._gauges["loss"].set(event.loss)
                self._gauges["samples_per_second"].set(event.samples_per_second)
                self._gauges["data_wait_share"].set(event.seconds[DATA] / whole)
            case Saved():
                self._gauges["checkpoint_seconds"].set(event.seconds)
