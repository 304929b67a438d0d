"""The ``scale`` section: workers and cluster. The same job gives the same losses on any number of
workers."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from p5dist.config.base import Section


class Elastic(Section):
    """A number of workers that follows the cluster."""

    min: PositiveInt
    """Training waits while the cluster has room for fewer workers."""
    max: PositiveInt
    """More workers are never started."""
    resize_every_s: PositiveFloat = 60.0
    """Seconds between checks for free capacity; a resize costs a restart from the latest
    checkpoint."""

    @model_validator(mode="after")
    def _order(self) -> Elastic:
        if self.min > self.max:
            raise ValueError(f"min {self.min} must be at most max {self.max}")
        return self


class Scale(Section):
    """Workers and cluster."""

    workers: PositiveInt | Elastic = 1
    """A fixed number, or {min, max}: fewer workers when a node is lost, more when it is back."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if the cluster has a GPU for every worker, else cpu."""
    cpus_per_worker: PositiveFloat | None = None
    """Left out: an equal part of the cluster's CPUs, except one CPU for reading data."""
    actors: PositiveInt | None = None
    """Scoring tasks of evaluate and recommend that run at once; left out: as many as workers."""
    address: str | None = None
    """Ray cluster to join (``auto``, ``ray://…``); left out: Ray is started on this machine for
    stages that need it, and prepare uses processes instead."""
    max_failures: NonNegativeInt = 3
    """Restarts of the worker group after worker errors before the stage gives up."""
    max_preemptions: NonNegativeInt | None = None
    """Restarts after a node was preempted (taken away with notice); left out: no limit."""
    sharding: dict[str, Literal["row_wise", "table_wise", "column_wise", "table_row_wise"]] = {}
    """Overrides the planner, per table. The planner takes row_wise for items; for bags table_wise
    on CPU, and what it finds faster of table_wise and row_wise on CUDA. column_wise needs
    tables.kind: sgd; table_row_wise (the rows of a table over the GPUs of one machine) is for bags
    on CUDA."""
    placement: dict[str, Literal["device", "uvm_caching", "uvm"]] = {}
    """On CUDA, per table, where its rows are: memory of the GPU; memory of the host with a cache on
    the GPU; memory of the host. Left out: the planner keeps what fits on the GPU there."""
    timeout_s: PositiveFloat = 120.0
    """Seconds after which a collective operation fails."""

    @property
    def most_workers(self) -> int:
        """The largest number of workers."""
        return self.workers.max if isinstance(self.workers, Elastic) else self.workers

    @property
    def fewest_workers(self) -> int:
        """The smallest number of workers."""
        return self.workers.min if isinstance(self.workers, Elastic) else self.workers
