"""Losses and gradients of several trainings, computed in the processes of a test."""

from __future__ import annotations

from p5dist.config import RunConfig
from tests.distributed.stages import run_session


def curves(jobs: dict[str, tuple[RunConfig, str]]) -> dict[str, tuple[list[float], list[str]]]:
    """By name, the losses of all steps of a job's stage, and the dense parameters that no gradient
    reached, or one that is not finite."""
    found = {}
    for name, (job, stage) in jobs.items():
        session, lines = run_session(job, stage)
        missing = [
            parameter
            for parameter, p in session.optimizers.dense_parameters.items()
            if p.requires_grad and not session.optimizers.dense.state[p]["exp_avg_sq"].sum() > 0
        ]
        found[name] = [line["loss"] for line in lines], missing
    return found
