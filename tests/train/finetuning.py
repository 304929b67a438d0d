"""Functions that the processes of test_finetune run."""

from __future__ import annotations

from typing import Any

from p5dist.config import RunConfig
from tests.distributed.stages import Parts, local_state, open_stage, run_session

State = dict[str, tuple[list[int], Parts]]


def before_and_after(job: RunConfig, stage: str) -> tuple[State, State, list[dict[str, Any]]]:
    """This worker's parts of the stage's state before the first step and after the last, and what
    was logged."""
    before = local_state(job, stage)
    _, lines = run_session(job, stage)
    return before, local_state(job, stage), lines


def dense_rates(job: RunConfig, stage: str) -> tuple[dict[str, float], list[float]]:
    """Learning rate of every trained dense parameter at the step after the warm-up, and those of
    the tables."""
    session = open_stage(job, stage)
    session.optimizers.prepare(job.trainings()[stage].schedule.warmup_steps)
    of = {
        id(p): group["lr"] for group in session.optimizers.dense.param_groups
        for p in group["params"]
    }  # fmt: skip
    dense = {name: of[id(p)] for name, p in session.optimizers.dense_parameters.items()}
    return dense, [group["lr"] for group in session.optimizers.fused.param_groups]
