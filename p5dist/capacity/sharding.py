"""TorchRec's planner for a hypothetical cluster."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError

from p5dist.capacity.machines import Machine
from p5dist.config import RunConfig
from p5dist.data.batch import ITEM_FEATURE
from p5dist.data.manifest import Manifest
from p5dist.tasks.build import build_model
from p5dist.train.sharding import (
    check_optimizer,
    configs_of,
    constraints,
    describe,
    sharders,
    tables_of,
)

_GIB = 1 << 30
_GB = 1e9
_CACHED = 0.2
"""Share of a table in memory of the host that FBGEMM caches on the GPU."""
RESERVED = 0.15
"""Share of a device's memory for everything that the estimate does not count."""


@dataclass(frozen=True)
class Tables:
    """The sharding plan of the embedding tables."""

    entries: list[dict[str, Any]] | None
    """One entry per table, see train.sharding.describe; None if the tables do not fit."""
    problem: str | None
    """Why the tables do not fit."""
    bytes_by_worker: list[float]
    """Weights and optimizer state on the device; without a plan equal parts."""
    rows: int
    """Rows of all tables."""
    dense: int
    """Dense parameters, held by every worker."""
    holders: int
    """Workers that hold a part of the item table."""
    on_host: frozenset[str] = frozenset()
    """Tables whose rows are in memory of the host."""


def plan_tables(
    job: RunConfig, stage: str, manifest: Manifest, machine: Machine, workers: int
) -> Tables:
    """Run the planner with the constraints that training uses."""
    model = build_model(job, stage, manifest, torch.device("meta"))
    training = job.trainings()[stage]
    kind = training.tables.kind
    sizes = [
        (config.num_embeddings, config.embedding_dim)
        for module in tables_of(model)
        for config in configs_of(module)
    ]
    tables = {id(p) for module in tables_of(model) for p in module.parameters()}
    dense = sum(p.numel() for p in model.parameters() if id(p) not in tables)
    check_optimizer(model, training.tables, machine.device)
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    cuda = machine.device == "cuda"
    topology = Topology(
        world_size=workers,
        local_world_size=min(machine.devices, workers),
        compute_device=machine.device,
        hbm_cap=int(machine.device_memory * _GIB) if cuda else None,
        ddr_cap=int(machine.memory * _GIB / machine.devices),
        hbm_mem_bw=machine.device_rate * _GB / 1000,  # the planner counts milliseconds
        ddr_mem_bw=machine.device_rate * _GB / 1000,
        intra_host_bw=machine.inside * _GB / 1000,
        inter_host_bw=machine.network / machine.devices * _GB / 1000,
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=max(training.batch_size // workers, 1),
        storage_reservation=FixedPercentageStorageReservation(RESERVED),
        constraints=constraints(
            model, training.tables, job.scale, device=machine.device, workers=workers
        ),
        debug=False,
    )
    rows = sum(size[0] for size in sizes)
    try:
        entries = describe(planner.plan(model, sharders()))["tables"]
    except PlannerError as e:
        even = sum(rows * row_bytes(kind, dim) for rows, dim in sizes) / workers
        problem = str(e).strip().splitlines()[0]
        return Tables(None, problem, [even] * workers, rows, dense, holders=workers)
    by_worker = [0.0] * workers
    on_host = frozenset(e["table"] for e in entries if "uvm" in e["kernel"])
    for entry in entries:
        share = {"fused": 1.0, "fused_uvm_caching": _CACHED}.get(entry["kernel"], 0.0)
        for part in entry["shards"]:
            (first, last), (left, right) = part["rows"], part["columns"]
            by_worker[part["rank"]] += share * (last - first) * row_bytes(kind, right - left)
    of_items = (len(entry["ranks"]) for entry in entries if entry["table"] == ITEM_FEATURE)
    holders = next(of_items, workers)  # a model may have no rows of items
    return Tables(entries, None, by_worker, rows, dense, holders, on_host)


def row_bytes(optimizer: str, dim: int) -> float:
    """Bytes of a row: float32 weights, and the state of the optimizer of tables."""
    state = {"sgd": 0, "rowwise_adagrad": 1, "partial_rowwise_adam": dim + 1}
    return 4.0 * (dim + state.get(optimizer, 2 * dim))
