"""A stage on the dashboards of the cluster: Ray's metrics agents export it to Prometheus."""

from __future__ import annotations

from ray.util.metrics import Gauge

from p5dist.observe.events import Callback, Event, Logged, Saved
from p5dist.observe.metrics_log import DATA

_GAUGES = {
    "step": "Steps taken.",
    "loss": "Loss of the logged step.",
    "samples_per_second": "Histories a second over all workers.",
    "data_wait_share": "Part (0 to 1) of its time that the first worker waited for data.",
    "checkpoint_seconds": "Seconds that the newest complete checkpoint took.",
    "restarts": "Starts of the workers of this stage after the first one.",
}


class Gauges(Callback):
    """``p5dist_<name>`` with the tags ``run`` and ``stage``; the process is a worker of Ray."""

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
