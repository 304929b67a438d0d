"""The runs that have the data of the same people."""

from __future__ import annotations

from typing import Any

import yaml

from p5dist.config import RunConfig
from p5dist.storage import Folder, RunFolder


def related_runs(job: RunConfig) -> list[RunFolder]:
    """The run of a job, and all runs beside it that share its prepared data (``data_of``: seeds,
    trials of a search) or are joined to it by ``prepare.continues`` (periods), the run of the job
    first."""
    storage = Folder.open(job.storage)
    links = {
        name: _named(storage, found)
        for name in (storage.children() if storage.exists() else [])
        if (found := _job(storage / name)) is not None
    }
    wanted, names = {job.name}, list[str]()
    while wanted:
        names += sorted(wanted)
        near = {other for name in wanted for other in links.get(name, ())}
        near |= {name for name, others in links.items() if wanted & set(others)}
        wanted = near & links.keys() - set(names)
    return [RunFolder.at(storage / name) for name in names if name in links]


def _job(run: Folder) -> dict[str, Any] | None:
    file = run / "job.yaml"
    found = yaml.safe_load(file.read_bytes()) if file.exists() else None
    return found if isinstance(found, dict) else None


def _named(storage: Folder, job: dict[str, Any]) -> list[str]:
    """Names of the runs in the same storage that a job builds on."""
    found = [] if job.get("data_of") is None else [str(job["data_of"])]
    before = (job.get("prepare") or {}).get("continues")
    if before is not None:
        place = Folder.open(str(before))
        if str(place.above) == str(storage):
            found.append(place.name)
    return found
