"""The gauges that Prometheus reads from a node during a training stage."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import replace

import ray

from p5dist.observe.events import Logged, Saved


class Stage:
    """Events of the first worker of a stage."""

    def __init__(self) -> None:
        from p5dist.observe.gauges import Gauges

        self.gauges = Gauges("shop", "finetune/rating", restarts=2)

    def tell(self) -> None:
        seconds = {"data": 1.0, "forward": 2.0, "other": 1.0}
        logged = Logged(40, 0, 1.5, lr=0.1, samples_per_second=120.0, seconds=seconds)
        self.gauges.on(logged)
        self.gauges.on(replace(logged, step=50, loss=None))  # the last step was skipped
        self.gauges.on(Saved(40, 2.25))


def test_the_node_of_the_first_worker_exports_them(ray_session: None) -> None:
    stage = ray.remote(Stage).options(num_cpus=0).remote()
    ray.get(stage.tell.remote())
    port = ray.nodes()[0]["MetricsExportPort"]
    expected = {"step": 50, "loss": 1.5, "samples_per_second": 120, "data_wait_share": 0.25,
                "checkpoint_seconds": 2.25, "restarts": 2}  # fmt: skip
    end, found = time.monotonic() + 60, {}
    while found != expected and time.monotonic() < end:
        time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = {
            name: float(value)
            for name, tags, value in re.findall(r"^ray_p5dist_(\w+)\{(.*)\} (\S+)$", text, re.M)
            if 'run="shop"' in tags and 'stage="finetune/rating"' in tags
        }
    ray.kill(stage)
    assert found == expected
