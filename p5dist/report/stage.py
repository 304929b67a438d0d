"""The report stage: a run folder → one self-contained HTML page."""

from __future__ import annotations

import time
from typing import Any

from p5dist.config import RunConfig
from p5dist.environment.provenance import provenance
from p5dist.observe.stages import report_end
from p5dist.report.page import render
from p5dist.report.read import read_run
from p5dist.report.users import shown_users
from p5dist.storage import RunFolder


def run(job: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Write ``report.html`` about the present content of the run folder.

    Needs neither Ray nor torch. The page says which stages have not run.

    Returns:
        ``page`` (path), ``bytes``, ``missing`` (stages without a result), and the provenance.
    """
    start = time.perf_counter()
    found = read_run(job, folder)
    manifest = found.manifest
    page = render(found, [] if manifest is None else shown_users(job, folder, manifest))
    page += report_end(job, folder)
    folder.report.write_text(page)
    done = set(found.results) | ({"prepare"} if manifest is not None else set())
    return {
        "page": str(folder.report),
        "bytes": len(page.encode()),
        "missing": [s for s in job.stages() if s != "report" and s not in done],
        **provenance(
            job,
            "report",
            data=None if manifest is None else manifest.fingerprint,
            seconds=time.perf_counter() - start,
        ),
    }
