"""``python -m p5dist.submit.wait_for_nodes HOST:PORT COUNT``: wait for the nodes of a cluster."""

from __future__ import annotations

import sys
import time

_SECONDS = 300.0


def main(address: str, count: int) -> None:
    """Return when ``count`` nodes are alive; end with exit code 1 after five minutes."""
    import ray

    end, alive = time.monotonic() + _SECONDS, 0
    while time.monotonic() < end:
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
            alive = sum(node["Alive"] for node in ray.nodes())
        except ConnectionError:
            alive = 0  # the head is not up yet
        if alive >= count:
            return
        time.sleep(2)
    sys.exit(f"{alive} of {count} nodes joined {address} within {_SECONDS:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
