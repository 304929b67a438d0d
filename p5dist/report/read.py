"""The content of a run folder; None for stages that have not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from p5dist.config import RunConfig
from p5dist.config.train import Training
from p5dist.data.manifest import Manifest
from p5dist.errors import ShardError
from p5dist.observe.metrics_log import read_metrics
from p5dist.storage import Folder, RunFolder

Facts = dict[str, Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrainingRun:
    """One training stage."""

    stage: str
    section: Training
    log: list[Facts]
    """metrics.jsonl, each step once, by rising step."""
    result: Facts | None
    plan: list[Facts]
    """Sharding plan, one entry per table."""

    def column(self, name: str) -> Floats:
        """[len(log)] numbers of metrics.jsonl; NaN for a step without the number."""
        values = [line.get(name) for line in self.log]
        return np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)


@dataclass(frozen=True)
class Run:
    """One run folder."""

    job: RunConfig
    job_values: Facts
    """The content of job.yaml in the run folder."""
    manifest: Manifest | None
    data_problem: str | None
    """Why there is no manifest."""
    profile: Facts | None
    trainings: list[TrainingRun]
    results: dict[str, Facts]
    """result.json by stage, in the order of the job."""

    @property
    def evaluation(self) -> Facts | None:
        return self.results.get("evaluate")


def read_run(job: RunConfig, folder: RunFolder) -> Run:
    """Read everything except the users (see users.py).

    Missing files are no errors: a report may be written at any time during a run.
    """
    manifest, problem = None, None
    try:
        manifest = Manifest.load(folder.prepare)
    except ShardError as e:
        problem = e.what
    stages = [s for s in job.stages() if s != "report"]
    results = {s: _json(folder.root / s / "result.json") for s in stages}
    trainings = [
        TrainingRun(
            stage=stage,
            section=section,
            log=read_metrics(folder.training(stage)),
            result=results[stage],
            plan=(_json(folder.training(stage) / "plan.json") or {}).get("tables", []),
        )
        for stage, section in job.trainings().items()
    ]
    written = yaml.safe_load(folder.job.read_bytes()) if folder.job.exists() else None
    return Run(
        job=job,
        job_values=written or job.model_dump(mode="json"),
        manifest=manifest,
        data_problem=problem,
        profile=_json(folder.prepare / "profile.json"),
        trainings=[t for t in trainings if t.log or t.result],
        results={stage: result for stage, result in results.items() if result is not None},
    )


def _json(file: Folder) -> Facts | None:
    return dict(file.read_json()) if file.exists() else None
