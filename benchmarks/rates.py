"""Measured rates of this machine: memory, arithmetic, exchange between processes.

W processes of one thread each run at the same time, like W workers, so that shared resources count
(the memory, or a core if there are fewer cores than workers).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TRIAD_BYTES = 384 << 20
"""Size of the three arrays together: far more than the caches."""
_MATRIX = 1024
_MESSAGE = 16 << 20  # bytes
_REPEAT = 7


@dataclass(frozen=True)
class Rates:
    """Rates of one of W processes, in bytes or operations per second; medians of the repeats."""

    memory: float
    """Rate of a STREAM triad; reads that precede writes (write-allocate) are not counted, as in
    STREAM."""
    flops: float
    """Rate of float32 operations in a product of two matrices of 1024 × 1024."""
    exchange: float | None
    """Rate at which a process sends in gloo's all-reduce of 16 MB over loopback; None for one
    process."""


def triad() -> float:
    """Bytes per second of ``a = b + 3 c`` with torch's present number of threads."""
    a, b, c = (torch.rand(TRIAD_BYTES // 12) for _ in range(3))
    return TRIAD_BYTES / _median(lambda: torch.add(b, c, alpha=3.0, out=a))


def rates(workers: int) -> Rates:
    """Measure with ``workers`` processes at once; the slowest process counts."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_process, (workers, folder), nprocs=workers, start_method="spawn")
        found = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(workers)]
    slowest = {name: min(one[name] for one in found) for name in found[0]}
    return Rates(slowest["memory"], slowest["flops"], slowest.get("exchange"))


def _process(rank: int, workers: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers
    )
    found = {}
    measured_of = {"memory": triad, "flops": _matmul}
    if workers > 1:
        measured_of["exchange"] = _all_reduce
    for name, measured in measured_of.items():
        dist.barrier()
        found[name] = measured()
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _matmul() -> float:
    a, b = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
    return 2 * _MATRIX**3 / _median(lambda: a @ b)


def _all_reduce() -> float:
    """In a ring, each process sends 2 · (W - 1) / W of the message."""
    workers = dist.get_world_size()
    values = torch.zeros(_MESSAGE // 4)
    return 2 * _MESSAGE * (workers - 1) / workers / _median(lambda: dist.all_reduce(values))


def _median(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(_REPEAT):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
