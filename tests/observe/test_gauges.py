"""What Prometheus reads from a node while a stage is trained there."""

from __future__ import annotations

import re
import time
import urllib.request

import ray


class Stage:
    """Tells what the first worker of a stage tells."""

    def __init__(self) -> None:
        from p5dist.observe.gauges import Gauges

        self.gauges = Gauges("shop", "finetune/rating", restarts=2)

    def tell(self) -> None:
        line = {"step": 40, "loss": 1.5, "samples_per_second": 120.0,
                "seconds": {"data": 1.0, "forward": 2.0, "other": 1.0}}  # fmt: skip
        self.gauges.log(line)
        self.gauges.log(line | {"step": 50, "loss": None})  # the last step was skipped
        self.gauges.saved(40, 2.25)


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
