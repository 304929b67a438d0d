"""One node of a local cluster: ``python -m p5dist.submit.node SETTINGS.json``.

The node lives as long as this process: the kernel ends Ray's own processes with it, so that SIGKILL
ends the whole node, like the failure of a machine. When the node is up, this process writes
``<folder>/node-<number>.json``.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

_MB = 1 << 20


def main(settings: dict[str, Any]) -> None:
    """Start the node and stay until a signal comes.

    Args:
        settings: ``folder`` of the cluster, ``number`` (0: the head), ``cpus``, ``address`` (None
            for the head), ``ip``, ``dashboard_port``, ``object_store_mb``; other keys are ignored.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams
    from ray._private.utils import write_ray_address

    folder, number = Path(settings["folder"]), settings["number"]
    head = number == 0
    options: dict[str, Any] = {
        "num_cpus": settings["cpus"],
        "num_gpus": 0,
        "object_store_memory": settings["object_store_mb"] * _MB,
        "node_ip_address": settings["ip"],
        "node_name": f"node-{number}",
        # Separate for each node: nodes with a common folder find each other's sockets and ports.
        "temp_dir": str(folder / f"ray-{number}"),
        "min_worker_port": 0,
        "max_worker_port": 0,
        "dashboard_agent_listen_port": 0,
        "include_log_monitor": True,
    }
    if head:
        options |= {
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": settings["dashboard_port"],
            "gcs_server_port": 0,
        }
    else:
        options |= {"gcs_address": settings["address"], "redis_address": settings["address"]}
    node = Node(RayParams(**options), head=head, shutdown_at_exit=True, spawn_reaper=True)
    # Drivers of jobs find their cluster here; otherwise they join any Ray cluster of this machine.
    write_ray_address(node.gcs_address, options["temp_dir"])
    facts = {
        "node_id": node.node_id,
        "address": node.gcs_address,
        "dashboard": f"http://{node.webui_url}" if head else None,
    }
    file = folder / f"node-{number}.json"
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(facts))
    temporary.replace(file)
    # Ray's exit hooks end the processes of the node.
    for number_ in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number_, lambda *_: sys.exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
