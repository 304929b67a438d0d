"""Splitting the tables over the workers: plan, materialise, draw initial weights."""

from __future__ import annotations

import os
import zlib
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
    WeightDecayMode,
)
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.optimizers import LAMB, PartialRowWiseAdam
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from p5dist.config.scale import Scale
from p5dist.config.train import TableOptimizer
from p5dist.data.randomness import hashed
from p5dist.errors import ConfigError

_DEFAULT = {
    ("cpu", EmbeddingCollection): ("row_wise",),
    ("cpu", EmbeddingBagCollection): ("table_wise",),
    ("cuda", EmbeddingCollection): ("row_wise",),
    ("cuda", EmbeddingBagCollection): ("table_wise", "row_wise"),
}
"""The planner chooses among these."""
_ALLOWED = {  # TorchRec splits bags by row on CUDA only
    ("cpu", EmbeddingCollection): ("row_wise", "table_wise", "column_wise"),
    ("cpu", EmbeddingBagCollection): ("table_wise", "column_wise"),
    ("cuda", EmbeddingCollection): ("row_wise", "table_wise", "column_wise"),
    ("cuda", EmbeddingBagCollection): ("table_wise", "row_wise", "column_wise", "table_row_wise"),
}
_OPTIMIZERS = {
    "rowwise_adagrad": RowWiseAdagrad,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "partial_rowwise_adam": PartialRowWiseAdam,
    "lamb": LAMB,
}
_ON_CPU = ("rowwise_adagrad", "sgd")
_KERNELS = {"device": "fused", "uvm_caching": "fused_uvm_caching", "uvm": "fused_uvm"}
_EXCHANGES = {"bf16": CommType.BF16, "fp16": CommType.FP16}
_BLOCK = 8192  # rows drawn from one generator: initial values do not depend on the plan


def shard(
    model: nn.Module,
    optimizer: TableOptimizer,
    *,
    batch_size: int,
    device: torch.device,
    scale: Scale | None = None,
) -> DistributedModelParallel:
    """Put the tables of ``model`` on the workers by the planner's plan; the rest is replicated.

    Args:
        model: with tables on the meta device.
        optimizer: fused into the backward pass of the tables.
        batch_size: histories of one worker's step, for the planner's estimate.
        scale: where and how tables are split, where it is not left to the planner.

    Raises:
        ConfigError: there is no such table, or it cannot be split or placed in that way; an
            optimizer or weight decay that the device does not have.
    """
    check_optimizer(model, optimizer, device.type)
    options: dict[str, Any] = {"lr": optimizer.lr}
    if optimizer.kind not in _ON_CPU:
        options["betas"] = optimizer.betas
    if optimizer.weight_decay:  # FBGEMM ignores it unless told how to apply it
        options |= {"weight_decay": optimizer.weight_decay, "weight_decay_mode": WeightDecayMode.L2}
    for module in tables_of(model):
        _apply_optimizer_in_backward(
            _OPTIMIZERS[optimizer.kind],
            module.parameters(),
            options,
        )
    planner = EmbeddingShardingPlanner(
        topology=_topology(device),
        batch_size=batch_size,
        constraints=constraints(
            model, optimizer, scale or Scale(), device=device.type, workers=dist.get_world_size()
        ),
        debug=False,
    )
    how = sharders(optimizer.exchange)
    plan = planner.collective_plan(model, how, dist.GroupMember.WORLD)
    return DistributedModelParallel(model, device=device, plan=plan, sharders=how)


def _topology(device: torch.device) -> Topology:
    workers = dist.get_world_size()
    if device.type != "cuda":
        return Topology(world_size=workers, compute_device=device.type)
    memory = torch.cuda.get_device_properties(device).total_memory
    local = int(os.environ.get("LOCAL_WORLD_SIZE", workers))
    return Topology(
        world_size=workers, local_world_size=local, compute_device="cuda", hbm_cap=memory
    )


def set_table_steps(model: nn.Module, steps: int) -> None:
    """Tell the optimizers of the tables, after a restart, how many steps were taken: Adam and LAMB
    correct their moments by this number, which is no part of their state."""
    for module in model.modules():
        if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen):
            module.set_optimizer_step(steps)


def check_optimizer(model: nn.Module, optimizer: TableOptimizer, device: str) -> None:
    """Raise a ConfigError if FBGEMM has no such optimizer for the device, or if weight decay would
    not be applied to all tables: on CPU it is applied to rows that are looked up one by one, but
    not to bags."""
    if device == "cpu" and optimizer.kind not in _ON_CPU:
        raise ConfigError(
            "FBGEMM has no such optimizer of tables on CPU", where="tables.kind",
            value=optimizer.kind, rule=f"on CPU: {', '.join(_ON_CPU)}",
            fix="choose one of them, or train on CUDA",
        )  # fmt: skip
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


def sharders(exchange: str = "fp32") -> list[Any]:
    """What TorchRec needs to split each kind of table module.

    Args:
        exchange: type of the numbers that travel, see config.train.TableOptimizer.
    """
    codecs = None
    if exchange != "fp32":
        kind = _EXCHANGES[exchange]
        codecs = get_qcomm_codecs_registry(
            QCommsConfig(forward_precision=kind, backward_precision=kind)
        )
    return [
        EmbeddingCollectionSharder(qcomm_codecs_registry=codecs),
        EmbeddingBagCollectionSharder(qcomm_codecs_registry=codecs),
    ]


def constraints(
    model: nn.Module, optimizer: TableOptimizer, scale: Scale, *, device: str, workers: int
) -> dict[str, ParameterConstraints]:
    """What the planner may do with each table.

    Item rows are spread over all workers; on CPU a bag table lives on one worker. Optimizers that
    adapt to whole rows would adapt to each part of a row on its own if it were split by column,
    and a data-parallel table would need an optimizer of another kind: with either the curve would
    depend on the plan.

    Raises:
        ConfigError: ``scale`` names an unknown table, or a way that the table cannot be split or
            placed.
    """
    tables = {
        config.name: (type(module), config.embedding_dim)
        for module in tables_of(model)
        for config in configs_of(module)
    }
    for setting in ("sharding", "placement"):
        for name in getattr(scale, setting):
            if name not in tables:
                raise ConfigError(
                    "no such table", where=f"scale.{setting}", value=name,
                    rule=f"the tables of this model: {', '.join(tables)}", fix="name one of them",
                )  # fmt: skip
    if scale.placement and device != "cuda":
        raise ConfigError(
            "tables have one place on CPU", where="scale.placement", value=scale.placement,
            rule="placement is for CUDA", fix="leave it out, or train on CUDA",
        )  # fmt: skip
    allowed = {}
    for name, (kind, dim) in tables.items():
        chosen = scale.sharding.get(name)
        possible = _ALLOWED[device, kind]
        if chosen is not None and (
            chosen not in possible or (chosen == "column_wise" and optimizer.kind != "sgd")
        ):
            raise ConfigError(
                "a table cannot be split in that way", where=f"scale.sharding.{name}",
                value=chosen,
                rule=f"on {device}: {', '.join(possible)}; column_wise only with tables.kind: sgd",
                fix="leave it out, or choose another",
            )  # fmt: skip
        place = scale.placement.get(name)
        kernels = [*_KERNELS.values()] if device == "cuda" else ["fused"]
        allowed[name] = ParameterConstraints(
            sharding_types=[*_DEFAULT[device, kind]] if chosen is None else [chosen],
            compute_kernels=kernels if place is None else [_KERNELS[place]],
            min_partition=max(dim // workers // 4 * 4, 4),
        )
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
