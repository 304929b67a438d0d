"""Functions that the processes of test_plans.py run."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.stages import Parts, local_state, train
from tests.small_data import small_job

Plan = tuple[str, str]
"""Optimizer of the tables, and how the item table is split."""
States = dict[tuple[int, Plan], dict[str, tuple[list[int], Parts]]]

STOP, END = 6, 8


def folder_of(root: Path, workers: int, plan: Plan) -> Path:
    return root / f"{workers}-{'-'.join(plan)}"


def overrides(plan: Plan, steps: int) -> list[str]:
    kind, sharding = plan
    return [
        f"pretrain.steps={steps}", "pretrain.checkpoint.every=6", "finetune={}",
        "pretrain.schedule.kind=constant", f"pretrain.tables.kind={kind}",
        f"scale.sharding={{item: {sharding}}}",
    ]  # fmt: skip


def save(root: Path, workers: int, plan: Plan) -> None:
    """Train to step STOP."""
    train(small_job(folder_of(root, workers, plan), *overrides(plan, STOP)), "pretrain")


def restore(root: Path, saved: list[tuple[int, Plan]], sharding: str) -> States:
    """This worker's parts of the state of every saved run, split as ``sharding``."""
    return {
        (workers, plan): local_state(
            small_job(folder_of(root, workers, plan), *overrides((plan[0], sharding), STOP)),
            "pretrain",
        )
        for workers, plan in saved
    }
