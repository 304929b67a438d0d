"""The ``scale`` section: what the job runs on. Nothing here changes the training curve."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from p5dist.config.base import Section


class Scale(Section):
    """Workers and cluster."""

    workers: PositiveInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where the cluster has a GPU for every worker."""
    cpus_per_worker: PositiveFloat | None = None
    """Left out: an equal part of the cluster's CPUs, one CPU being left for reading data."""
    actors: PositiveInt | None = None
    """Scoring actors of evaluate and recommend; left out: as many as workers."""
    address: str | None = None
    """Ray cluster to join (``auto``, ``ray://…``); left out: one on this machine."""
    max_failures: NonNegativeInt = 3
    """Restarts of the worker group after worker errors before the stage gives up."""
    timeout_s: PositiveFloat = 120.0
    """A collective that takes longer has failed."""
