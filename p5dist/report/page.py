"""The run as one self-contained HTML page: no scripts, external fonts, picture files or network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from p5dist.environment.redact import redact, redact_text
from p5dist.ranking.results import accounts
from p5dist.report import format as fmt
from p5dist.report import tables
from p5dist.report.pictures import data_pictures, loss_picture
from p5dist.report.read import Run
from p5dist.report.segments import families, long_tail
from p5dist.report.users import ShownUser

HERE = Path(__file__).parent


def render(run: Run, users: list[ShownUser]) -> str:
    """The page. The same run folder gives the same bytes."""
    protocol = (run.evaluation or {}).get("protocol", {})
    metrics = tables.metric_tables(run.evaluation) if run.evaluation else []
    tail_parts, tail_rows = long_tail(run.evaluation or {})
    finished = [r["finished"] for r in run.results.values() if r.get("finished")]
    seconds = [r["seconds"] for r in run.results.values() if r.get("seconds") is not None]
    latest = list(run.results.values())[-1] if run.results else {}
    return environment().get_template("page.html.j2").render(
        run=run,
        name=run.job.name,
        finished=max(finished, default=None),
        seconds=sum(seconds) if seconds else None,
        headlines=tables.headlines(metrics),
        stages=tables.stage_rows(run),
        data_pictures=data_pictures(run.profile or {}),
        trainings=[
            {
                "run": training,
                "picture": loss_picture(training),
                "split": tables.time_split(training),
                "facts": tables.other_facts(training.result),
            }
            for training in run.trainings
        ],
        metrics=metrics,
        accounts=accounts(protocol),
        protocol=protocol,
        audit=(run.evaluation or {}).get("audit", []),
        families=families(run.evaluation or {}),
        tail_parts=tail_parts,
        tail_rows=tail_rows,
        tail_k=(run.evaluation or {}).get("long_tail", {}).get("k"),
        fitted_on=protocol.get("baselines_fitted_on", {}),
        users=users,
        ranking_masked=run.job.recommend is not None and run.job.recommend.mask_seen,
        sessions=run.job.prepare.session_gap is not None,
        job_text=yaml.safe_dump(redact(run.job_values), sort_keys=False, allow_unicode=True),
        versions=latest.get("versions", {}),
        machine=latest.get("machine", {}),
    )  # fmt: skip


def environment() -> Environment:
    """Templates of this folder; every printed value is escaped and searched for secrets."""
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,  # searches every printed value for secrets
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (fmt.number, fmt.metric, fmt.percent, fmt.change, fmt.duration, fmt.moment):
        made.filters[filter_.__name__] = filter_
    made.filters["plain"] = tables.plain
    return made


def _finalize(value: Any) -> Any:
    return redact_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
