"""Submitting a job once: its content, its id, and whether the same job already runs."""

from __future__ import annotations

import hashlib
import shlex
import socket
from dataclasses import dataclass
from typing import Any

from p5dist.config import RunConfig, dump_job
from p5dist.errors import ClusterError, RunFolderError
from p5dist.submit.client import Cluster, Job, JobServer
from p5dist.submit.package import JOB_FILE, build_archive
from p5dist.submit.paths import portable, refuse_secrets

STOP_SECONDS = 60
"""Seconds that a job may take to save a checkpoint after it was asked to stop."""


@dataclass(frozen=True)
class Options:
    """How a job is submitted."""

    stages: tuple[str, ...] = ()
    """Stages to run; empty: all."""
    image_has_package: bool = False
    """The nodes have p5dist: only the job file is sent."""
    python: str | None = None
    """Interpreter on the nodes; left out: the interpreter that runs Ray on the head node."""
    driver_cpus: float = 0.0
    """0: the driver runs on the head node; else on any node with this many free CPUs."""
    driver_memory: int = 0
    """Bytes that the driver reserves."""
    again: bool = False
    """Submit even if the same job has finished."""


@dataclass(frozen=True)
class Submission:
    """The content of a submission; the id depends on run, job and stages only, so that the same job
    is submitted once."""

    id: str
    run: str
    """The run folder: storage and name."""
    entrypoint: str
    package: str
    archive: bytes
    options: Options
    job_text: str
    warnings: list[str]

    def request(self, id: str) -> dict[str, Any]:
        """The body of the request, without this machine's environment."""
        body: dict[str, Any] = {
            "submission_id": id,
            "entrypoint": self.entrypoint,
            "runtime_env": {
                "working_dir": f"gcs://{self.package}",
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
            },
            "metadata": {"p5dist_run": self.run, "p5dist_submission": self.id},
        }
        if self.options.driver_cpus:
            body["entrypoint_num_cpus"] = self.options.driver_cpus
        if self.options.driver_memory:
            body["entrypoint_memory"] = self.options.driver_memory
        return body


@dataclass(frozen=True)
class Submitted:
    """The job of a submission on the server."""

    id: str
    new: bool
    """Whether this submission started the job; False: the job existed before."""
    status: str


def build(job: RunConfig, options: Options, cluster: Cluster) -> Submission:
    """The submission of ``job`` to ``cluster``.

    Raises:
        ConfigError: the job contains secrets, or relative paths that are not valid on the cluster.
        ClusterError: the cluster does not report its Python interpreter.
    """
    refuse_secrets(job)
    python = options.python or cluster.python
    if python is None:
        raise ClusterError(
            "the cluster does not report its Python interpreter", where="--python",
            fix="pass the absolute path of the interpreter on the nodes: --python /…/bin/python",
        )  # fmt: skip
    job, warnings = portable(
        job, same_machine=cluster.hosts == (socket.gethostname(),), hosts=len(cluster.hosts)
    )
    scale = job.scale.model_copy(update={"address": "auto"})
    text = dump_job(job.model_copy(update={"scale": scale}))
    package, archive = build_archive(text, code=not options.image_has_package)
    digest = hashlib.sha256("\0".join([text, *options.stages]).encode()).hexdigest()[:8]
    # exec: the signal to stop reaches p5dist instead of a shell around it.
    words = [python, "-u", "-m", "p5dist.cli", "run", JOB_FILE, *options.stages]
    return Submission(
        id=f"{job.name}-{digest}",
        run=f"{job.storage.rstrip('/')}/{job.name}",
        entrypoint=f"exec {shlex.join(words)}",
        package=package,
        archive=archive,
        options=options,
        job_text=text,
        warnings=warnings,
    )


def submit(server: JobServer, submission: Submission) -> Submitted:
    """Start the job, unless it runs or has finished; a job that failed or was stopped is started
    again under its id with a number appended.

    Raises:
        RunFolderError: another job works in the same run folder.
        ClusterError: see :class:`JobServer`.
    """
    there = [job for job in server.jobs() if job.metadata.get("p5dist_run") == submission.run]
    for job in there:
        if not job.finished and job.metadata.get("p5dist_submission") != submission.id:
            raise RunFolderError(
                "another job works in this run folder", where=submission.run,
                value=f"{job.id}, {job.status}",
                rule="one job at a time in a run folder",
                fix=f"wait for that job, stop it (p5dist jobs stop {job.id}), or give this job "
                "another name (name=…)",
            )  # fmt: skip
    same = [job for job in there if job.metadata.get("p5dist_submission") == submission.id]
    if same:
        last = same[-1]
        if not last.finished or (last.status == "SUCCEEDED" and not submission.options.again):
            return Submitted(last.id, new=False, status=last.status)
    id = _free(submission.id, {job.id for job in same})
    server.upload(submission.package, submission.archive)
    try:
        server.submit(submission.request(id))
    except ClusterError:
        # The same job was submitted concurrently: the server accepts an id once.
        other = _find(server, id)
        if other is None:
            raise
        return Submitted(other.id, new=False, status=other.status)
    return Submitted(id, new=True, status="PENDING")


def _free(id: str, taken: set[str]) -> str:
    names = [id, *(f"{id}-{n}" for n in range(2, len(taken) + 2))]
    return next(name for name in names if name not in taken)


def _find(server: JobServer, id: str) -> Job | None:
    return next((job for job in server.jobs() if job.id == id), None)
