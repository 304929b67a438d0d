"""Joining or starting Ray, once per process, with the settings that p5dist relies on."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from p5dist.config.scale import Scale
from p5dist.errors import ResourceError

_KNOCK_S = 10.0


def connect(scale: Scale) -> None:
    """Join the cluster at ``scale.address``, or start one on this machine. Later calls do nothing.

    Raises:
        ResourceError: no cluster answers at the address, or Ray does not start.
    """
    # Must be set before ray is imported. Workers keep the folder in which they were started, so
    # that relative paths of a job are the same everywhere.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # p5dist logs a line of its own about a lost worker.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if scale.address is None:
        # Other machines need not reach this cluster: with this switch, which Ray has for systems
        # without clusters, its nodes take the loopback address.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Otherwise Ray writes a token into the home folder, which changes the start of later
        # clusters.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if scale.address is None:
        options |= {"address": "local", "object_store_memory": _object_store_bytes()}
        options["include_dashboard"] = False  # a tenth of the start, and ends with the command
    else:
        options["address"] = scale.address
    try:
        _knock(scale.address)
        ray.init(**options)
    except Exception as e:  # Ray also raises plain exceptions if its start fails
        raise _explain(e, scale.address) from e
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _knock(address: str | None) -> None:
    """Fail early if no process listens at the address: Ray itself tries for ten minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


def _explain(error: Exception, address: str | None) -> ResourceError:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
    if address is None:
        return ResourceError(
            "Ray does not start on this machine", value=text,
            fix="run p5dist doctor to find the reason; Ray's own logs are in "
            "/tmp/ray/session_latest/logs; on a busy machine start again",
        )  # fmt: skip
    return ResourceError(
        f"no Ray cluster answers: {text}", where="scale.address", value=address,
        fix="start the cluster, correct the address, or set scale.address to null to use this "
        "machine",
    )  # fmt: skip


def _object_store_bytes() -> int:
    """A tenth of the memory, 256 MiB to 4 GiB: for units read ahead, not for whole data sets."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(max(memory // 10, 256 << 20), 4 << 30))
