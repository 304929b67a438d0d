"""Runs a test function in several processes of one group."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = ["p5dist.train.session"]
"""Slow libraries that the fork server imports once; processes forked from it start at once."""


def run_distributed(
    function: Callable[..., Any], world_size: int, *args: Any, backend: str = "gloo"
) -> list[Any]:
    """What ``function(*args)`` returns on every rank of a group of ``world_size`` processes.

    ``function`` must be importable (a module's top level).
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.get_context("forkserver").set_forkserver_preload(PRELOADED)
        mp.start_processes(
            _enter,
            args=(function, world_size, port, folder, backend, args),
            nprocs=world_size,
            start_method="forkserver",
        )
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(world_size)]


def _enter(
    rank: int,
    function: Callable[..., Any],
    world_size: int,
    port: int,
    folder: str,
    backend: str,
    args: Any,
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
    }
    torch.set_num_threads(1)
    dist.init_process_group(backend, rank=rank, world_size=world_size)
    try:
        result = function(*args)
        Path(folder, str(rank)).write_bytes(pickle.dumps(result))
        dist.barrier()
    finally:
        dist.destroy_process_group()
