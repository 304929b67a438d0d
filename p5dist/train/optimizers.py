"""Optimizers of a stage: AdamW for the dense part, the fused one of the tables, one schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchrec.distributed import DistributedModelParallel

from p5dist.config.train import Schedule, Training
from p5dist.train.sharding import table_names


def factor(schedule: Schedule, step: int, total: int) -> float:
    """Factor on the learning rates at ``step`` (from 0) of ``total``."""
    warmup = min(schedule.warmup_steps, total)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    done = (step - warmup) / max(total - 1 - warmup, 1)
    falling = 1 - done if schedule.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
    return schedule.final_fraction + (1 - schedule.final_fraction) * falling


class Optimizers:
    """Both optimizers of a sharded model.

    The tables are updated inside ``backward()`` at the rate that they had in the forward pass, so
    :meth:`prepare` must come before both.
    """

    def __init__(self, model: DistributedModelParallel, training: Training, total: int) -> None:
        self.training = training
        self.total = total
        self.fused = model.fused_optimizer
        # A worker has a parameter without elements for a table that lives on other workers.
        in_tables = tuple(table_names(model.plan))
        self.dense_parameters: dict[str, Tensor] = {
            name: p
            for name, p in model.named_parameters()
            if name not in in_tables and p.requires_grad
        }
        """Those that are trained."""
        factors = {"backbone.": training.lr_scale.encoder, "head.": training.lr_scale.head}
        self.dense = torch.optim.AdamW(
            [
                {
                    "params": [p for n, p in self.dense_parameters.items() if n.startswith(part)],
                    "factor": factor,
                }
                for part, factor in factors.items()
            ],
            lr=training.dense.lr,
            betas=training.dense.betas,
            weight_decay=training.dense.weight_decay,
            fused=any(p.is_cuda for p in self.dense_parameters.values()),
        )

    def prepare(self, step: int) -> float:
        """Set the learning rates of ``step`` and clear the dense gradients; returns the dense
        learning rate."""
        scale = factor(self.training.schedule, step, self.total)
        for group in self.dense.param_groups:
            group["lr"] = self.training.dense.lr * scale * group["factor"]
        for group in self.fused.param_groups:
            group["lr"] = self.training.tables.lr * scale * self.training.lr_scale.tables
        self.fused.step()  # hands the new rate to the kernels; it updates nothing else
        self.dense.zero_grad(set_to_none=True)
        return self.training.dense.lr * scale

    def step(self) -> None:
        """Update the dense part, its gradient clipped."""
        if self.training.dense.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(
                self.dense_parameters.values(), self.training.dense.clip_norm
            )
        self.dense.step()

    def state(self) -> dict[str, Tensor]:
        """All optimizer tensors by name, to be saved or loaded in place.

        AdamW creates its state at the first step; this method creates it earlier, since a
        checkpoint can only be loaded into existing tensors.
        """
        tensors: dict[str, Tensor] = {}
        for name, entries in self.fused.state_dict()["state"].items():
            for entry, value in entries.items():
                if not isinstance(value, torch.Tensor) or value.dim():
                    tensors[f"fused.{name}.{entry.rsplit('.', 1)[-1]}"] = value
        for name, p in self.dense_parameters.items():
            state = self.dense.state[p]
            if not state:
                fused = self.dense.defaults["fused"]
                state["step"] = torch.zeros((), device=p.device if fused else None)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            for entry, value in state.items():
                # safetensors offsets need a dimension; a view shares the counter's memory.
                tensors[f"dense.{name}.{entry}"] = value.view(1) if value.dim() == 0 else value
        return tensors
