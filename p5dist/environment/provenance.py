"""The provenance of a result: versions, machine, fingerprints. Every result.json has it."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import p5dist
from p5dist.config import RunConfig

_PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "ray", "pyarrow", "numpy", "s3fs")


def provenance(job: RunConfig, stage: str, *, data: str | None, seconds: float) -> dict[str, Any]:
    """The fields that every result has.

    Args:
        job: the resolved job.
        stage: for example ``finetune/rating``.
        data: fingerprint of the prepared data (``Manifest.fingerprint``).
        seconds: wall time of the stage.
    """
    return {
        "stage": stage,
        "job_fingerprint": job.fingerprint(stage),
        "data_fingerprint": data,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Versions of Python, p5dist and the packages that results depend on."""
    found = {"p5dist": p5dist.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Architecture, cores and memory (bytes) of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"platform": platform.platform(), "cores": os.cpu_count(), "memory_bytes": memory}
