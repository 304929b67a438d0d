"""Follows a submitted job: its growing log, its outcome, and the exit code for scripts."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone

from p5dist.environment.redact import redact_text
from p5dist.submit.client import Job, JobServer

EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 143}

_EVERY_S = 1.0
_TAIL_LINES = 20


def wait(server: JobServer, id: str, *, follow: bool = False, seconds: float | None = None) -> Job:
    """Wait until the job has ended.

    Args:
        follow: print its log to stdout as it grows.
        seconds: return after this time even if the job still runs; None: no limit.
    """
    end = None if seconds is None else time.monotonic() + seconds
    shown = 0
    while True:
        job = server.job(id)  # before the log, so that the last lines are not missed
        if follow and job.status != "PENDING":
            text = server.logs(id)
            whole = text if job.finished else text[: text.rfind("\n") + 1]
            sys.stdout.write(redact_text(whole[shown:]))
            sys.stdout.flush()
            shown = max(shown, len(whole))
        if job.finished or (end is not None and time.monotonic() > end):
            return job
        time.sleep(_EVERY_S)


def outcome(server: JobServer, job: Job, *, shown: bool) -> str:
    """The outcome of the job as text; for a failed job with the end of its log.

    Args:
        shown: the log was already printed.
    """
    text = f"{job.id}: {job.status}{_seconds(job)}"
    if job.status == "FAILED":
        if not shown:
            tail = server.logs(job.id).rstrip().splitlines()[-_TAIL_LINES:]
            text += "".join(f"\n  {line}" for line in tail)
        text += "\nsubmit the same job again: it skips complete stages and continues"
    return redact_text(text)


def when(seconds: float | None) -> str:
    """A moment (seconds since 1970) in the time zone of this machine; empty for None."""
    if seconds is None:
        return ""
    moment = datetime.fromtimestamp(seconds, timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _seconds(job: Job) -> str:
    if job.start is None or job.end is None:
        return ""
    return f" after {job.end - job.start:.0f} s"
