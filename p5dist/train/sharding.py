"""Splitting the tables over the workers: plan, materialise, draw initial weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from p5dist.config.train import TableOptimizer
from p5dist.data.randomness import hashed
from p5dist.errors import ConfigError

_DEFAULT = {EmbeddingCollection: "row_wise", EmbeddingBagCollection: "table_wise"}
_ALLOWED = {  # TorchRec splits bags by row on CUDA only
    EmbeddingCollection: ("row_wise", "table_wise", "column_wise"),
    EmbeddingBagCollection: ("table_wise", "column_wise"),
}
_BLOCK = 8192  # rows drawn from one generator: initial values do not depend on the plan


def shard(
    model: nn.Module,
    optimizer: TableOptimizer,
    *,
    batch_size: int,
    device: torch.device,
    sharding: Mapping[str, str] = MappingProxyType({}),
) -> DistributedModelParallel:
    """Put the tables of ``model`` on the workers by the planner's plan; the rest is replicated.

    Args:
        model: with tables on the meta device.
        optimizer: fused into the backward pass of the tables.
        batch_size: histories of one worker's step, for the planner's estimate.
        sharding: table → row_wise, table_wise or column_wise, where it is not left to the planner.

    Raises:
        ConfigError: there is no such table, or it cannot be split in that way; weight decay that
            would not be applied.
    """
    check_weight_decay(model, optimizer, device.type)
    options: dict[str, Any] = {"lr": optimizer.lr}
    if optimizer.weight_decay:  # FBGEMM ignores it unless told how to apply it
        options |= {"weight_decay": optimizer.weight_decay, "weight_decay_mode": WeightDecayMode.L2}
    for module in tables_of(model):
        _apply_optimizer_in_backward(
            RowWiseAdagrad if optimizer.kind == "rowwise_adagrad" else torch.optim.SGD,
            module.parameters(),
            options,
        )
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=dist.get_world_size(), compute_device=device.type),
        batch_size=batch_size,
        constraints=constraints(model, optimizer, sharding, workers=dist.get_world_size()),
        debug=False,
    )
    plan = planner.collective_plan(model, sharders(), dist.GroupMember.WORLD)
    return DistributedModelParallel(model, device=device, plan=plan, sharders=sharders())


def check_weight_decay(model: nn.Module, optimizer: TableOptimizer, device: str) -> None:
    """Raise a ConfigError if weight decay would not be applied to all tables: FBGEMM's kernels on
    CPU apply it to rows that are looked up one by one, but not to bags."""
    bags = [
        config.name
        for module in tables_of(model)
        if isinstance(module, EmbeddingBagCollection)
        for config in configs_of(module)
    ]
    if optimizer.weight_decay and bags and device == "cpu":
        raise ConfigError(
            "weight decay is not applied to some tables on CPU", where="tables.weight_decay",
            value=optimizer.weight_decay, rule=f"on CPU no weight decay for: {', '.join(bags)}",
            fix="set tables.weight_decay to 0, train on CUDA, or train without these tables "
            "(item and user attributes, user rows)",
        )  # fmt: skip


def sharders() -> list[Any]:
    """What TorchRec needs to split each kind of table module."""
    return [EmbeddingCollectionSharder(), EmbeddingBagCollectionSharder()]


def constraints(
    model: nn.Module, optimizer: TableOptimizer, sharding: Mapping[str, str], *, workers: int
) -> dict[str, ParameterConstraints]:
    """What the planner may do with each table.

    Item rows are spread over all workers; a bag table lives on one worker. Row-wise Adagrad would
    adapt to each part of a row on its own if it were split by column, and a data-parallel table
    would need an optimizer of another kind: with either the curve would depend on the plan.

    Raises:
        ConfigError: ``sharding`` names an unknown table, or a way that the table cannot be split.
    """
    tables = {
        config.name: (type(module), config.embedding_dim)
        for module in tables_of(model)
        for config in configs_of(module)
    }
    allowed = {}
    for name, (kind, dim) in tables.items():
        chosen = sharding.get(name, _DEFAULT[kind])
        if chosen not in _ALLOWED[kind] or (
            chosen == "column_wise" and optimizer.kind == "rowwise_adagrad"
        ):
            raise ConfigError(
                "a table cannot be split in that way", where=f"scale.sharding.{name}",
                value=chosen,
                rule=f"{', '.join(_ALLOWED[kind])}; column_wise only with tables.kind: sgd",
                fix="leave it out, or choose another",
            )  # fmt: skip
        allowed[name] = ParameterConstraints(
            sharding_types=[chosen],
            compute_kernels=["fused"],
            min_partition=max(dim // workers // 4 * 4, 4),
        )
    for name in sharding:
        if name not in tables:
            raise ConfigError(
                "no such table", where="scale.sharding", value=name,
                rule=f"the tables of this model: {', '.join(tables)}", fix="name one of them",
            )  # fmt: skip
    return allowed


def tables_of(model: nn.Module) -> list[nn.Module]:
    """The unsharded table modules."""
    kinds = (EmbeddingCollection, EmbeddingBagCollection)
    return [module for module in model.modules() if isinstance(module, kinds)]


def configs_of(module: Any) -> Any:
    """Configurations of the tables of one module."""
    if isinstance(module, EmbeddingCollection):
        return module.embedding_configs()
    return module.embedding_bag_configs()


@torch.no_grad()
def init_tables(tensors: dict[str, Any], *, seed: int, std: float) -> None:
    """Fill embedding weights with normal numbers drawn per block of rows from (seed, table, block),
    so that neither the plan nor the number of workers changes them. Row 0, padding, is zero.

    Args:
        tensors: state-dict name → ShardedTensor or whole tensor.
    """
    for name, tensor in tensors.items():
        table = zlib.crc32(name.encode())
        for local, row, column in local_shards(tensor):
            for block in range(row // _BLOCK, -(-(row + len(local)) // _BLOCK)):
                drawn_from = int(hashed(seed, table, block)[0] >> np.uint64(1))
                generator = torch.Generator().manual_seed(drawn_from)
                rows = min(_BLOCK, tensor.shape[0] - block * _BLOCK)
                values = torch.empty(rows, tensor.shape[1]).normal_(0, std, generator=generator)
                if block == 0:
                    values[0] = 0
                first, last = max(row, block * _BLOCK), block * _BLOCK + rows
                last = min(last, row + len(local))
                part = values[first - block * _BLOCK : last - block * _BLOCK]
                local[first - row : last - row] = part[:, column : column + local.shape[1]]


def local_shards(tensor: Any) -> list[tuple[torch.Tensor, int, int]]:
    """(values, first row, first column) of this worker's parts of a table."""
    if isinstance(tensor, torch.Tensor) and not hasattr(tensor, "local_shards"):
        return [(tensor, 0, 0)]
    return [(s.tensor, *s.metadata.shard_offsets) for s in tensor.local_shards()]


def table_names(plan: ShardingPlan) -> list[str]:
    """Names in the model's state of the weights of all tables, wherever they live."""
    names = []
    for module, parameters in plan.plan.items():
        for table in parameters:
            kind = "embedding_bags" if module.endswith(".bags") else "embeddings"
            names.append(f"{module}.{kind}.{table}.weight")
    return names


def describe(plan: ShardingPlan) -> dict[str, Any]:
    """The plan as plain data for plan.json: one entry a table."""
    tables = []
    for module, parameters in plan.plan.items():
        for name, sharding in parameters.items():
            shards = [
                {
                    "rank": shard.placement.rank(),
                    "rows": [shard.shard_offsets[0], shard.shard_offsets[0] + shard.shard_sizes[0]],
                    "columns": [
                        shard.shard_offsets[1],
                        shard.shard_offsets[1] + shard.shard_sizes[1],
                    ],
                }
                for shard in sharding.sharding_spec.shards
            ]
            tables.append(
                {
                    "table": name,
                    "module": module,
                    "sharding": sharding.sharding_type,
                    "kernel": sharding.compute_kernel,
                    "rows": max(s["rows"][1] for s in shards),
                    "dim": max(s["columns"][1] for s in shards),
                    "ranks": sorted({s["rank"] for s in shards}),
                    "shards": shards,
                }
            )
    return {"tables": tables}
