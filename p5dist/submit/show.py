"""``p5dist submit`` on the terminal."""

from __future__ import annotations

import json
from typing import cast, get_args

from p5dist.config import RunConfig
from p5dist.environment.console import console
from p5dist.errors import ClusterError, ConfigError
from p5dist.submit.client import JobServer
from p5dist.submit.follow import EXIT_CODES, outcome, wait
from p5dist.submit.submission import Options, Submission, Submitted, build
from p5dist.submit.submission import submit as start


def submit(
    job: RunConfig,
    options: Options,
    address: str | None,
    *,
    wait: bool,
    follow: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Submit a job and print the outcome; returns the exit code.

    Raises:
        ClusterError, ConfigError, RunFolderError: see :mod:`p5dist.submit.submission`.
    """
    if address is None:
        raise ClusterError(
            "no cluster address", where="--address",
            fix="pass --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS; "
            "p5dist cluster up starts a cluster on this machine",
        )  # fmt: skip
    server = JobServer(address)
    server.check()
    submission = build(job, options, server.cluster())
    for warning in submission.warnings:
        console.print(f"[yellow]note[/yellow] {warning}")
    if dry_run:
        _show_dry(submission, as_json)
        return 0
    submitted = start(server, submission)
    if as_json:
        print(json.dumps({"id": submitted.id, "new": submitted.new, "status": submitted.status}))
    else:
        console.print(_in_words(submitted, server.address))
    return _watch(server, submitted.id, follow) if wait or follow else 0


def rendered(target: str, job: RunConfig, stages: tuple[str, ...], image: str | None) -> str:
    """The file for another scheduler.

    Raises:
        ConfigError: no such scheduler; see :func:`p5dist.submit.render.render`.
    """
    from p5dist.submit import render

    known = get_args(render.Target)
    if target not in known:
        raise ConfigError(
            "no such scheduler", where="--render", value=target, rule=f"one of: {', '.join(known)}",
        )  # fmt: skip
    return render.render(cast("render.Target", target), job, stages, image or render.IMAGE)


def _show_dry(submission: Submission, as_json: bool) -> None:
    request = submission.request(submission.id)
    if as_json:
        print(json.dumps({"request": request, "job": submission.job_text}, indent=2))
        return
    print(json.dumps(request, indent=2))
    print(f"\n{submission.package}: {len(submission.archive) / 1e3:,.0f} kB with this job.yaml:\n")
    print(submission.job_text, end="")


def _in_words(submitted: Submitted, address: str) -> str:
    where = f"{submitted.id} --address {address}"
    if submitted.new:
        first = f"submitted {submitted.id}"
    elif submitted.status == "SUCCEEDED":
        first = f"{submitted.id} has finished; nothing was submitted (--again submits it)"
    else:
        first = f"{submitted.id} already exists ({submitted.status}); nothing was submitted"
    return f"{first}\n  follow  p5dist jobs logs -f {where}\n  stop    p5dist jobs stop {where}"


def _watch(server: JobServer, id: str, follow: bool) -> int:
    try:
        job = wait(server, id, follow=follow)
    except KeyboardInterrupt:
        console.print(f"\n{id} continues to run; p5dist jobs stop {id} stops it")
        return 130
    console.print(outcome(server, job, shown=follow), markup=False)
    return EXIT_CODES[job.status]
