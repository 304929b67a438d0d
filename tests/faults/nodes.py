"""A Ray cluster of several nodes on this machine, whose nodes can be killed and drained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# So that a lost node is noticed in seconds; a real cluster is busier and waits longer.
_QUICK = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_object_manager_pull_timeout_ms": "1000",
}


class Nodes:
    """A head without CPUs for the driver, and worker nodes of one CPU."""

    def __init__(self, workers: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "resources": {"head": 1}}
        )
        self.address: str = self._cluster.address
        self.nodes: list[Any] = [self.add() for _ in range(workers)]

    def add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, resources={"worker": 1})

    def kill(self, node: Any) -> None:
        """All processes of the node at once, with SIGKILL."""
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: int) -> None:
        """The notice that a cloud gives before it takes a machine away."""
        ray = str(Path(sys.executable).parent / "ray")
        subprocess.run(
            [ray, "drain-node", "--address", self.address, "--node-id", node.node_id,
             "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
             "--deadline-remaining-seconds", str(seconds)],
            check=True, capture_output=True,
        )  # fmt: skip

    def shutdown(self) -> None:
        self._cluster.shutdown()


@contextmanager
def ray_nodes(workers: int) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as m:
        for name, value in _QUICK.items():
            m.setenv(name, value)
        nodes = Nodes(workers)
        try:
            yield nodes
        finally:
            nodes.shutdown()
