"""``p5dist advance JOB``: a trained job goes on with the new files of its log, period by period.

The job is the run NAME, which its users have run. The files of the log that came since are a
period: the run NAME-period-0001, later NAME-period-0002, …, each of which continues the run before
it (``prepare.continues``) and never writes into it. A period

- reads its own files, and the earlier histories of their users,
- holds its new interactions out, and trains on those that the run before had held out,
- starts every training stage from the weights of the run before; rows of new items start from the
  items that share their attribute values,
- evaluates on its new interactions: everything is first predicted, then trained on, once.

A period that fails or is stopped is continued by the same command; the run before stays as it is.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from p5dist.config import RunConfig, parse_job
from p5dist.config.splits import TimeSplit
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError, RunFolderError
from p5dist.inference.mixing import CHOSEN
from p5dist.observe.stages import marker
from p5dist.prepare.inputs import new_files
from p5dist.storage import Folder, RunFolder


@dataclass(frozen=True)
class Period:
    """A run that continues another one."""

    number: int
    """From 1."""
    files: tuple[str, ...]
    """Of the log."""
    job: RunConfig
    """Of the period."""
    fresh: bool = False
    """Whether a preparation of other files was begun, which is to be discarded."""


def next_period(job: RunConfig, files: int | None = None) -> Period | None:
    """The period that is to be trained: the last one if it is not complete, else a period of the
    files that no run has read; None if there are none.

    Args:
        job: the job that the runs belong to.
        files: the most files of a new period, in the order of the log; None: all.

    Raises:
        RunFolderError: the job itself is not complete.
        ConfigError: the job cannot be continued.
        DataError: a file that was read has changed.
    """
    _check(job)
    names = _runs(job)
    last = _folder(job, names[-1])
    if len(names) == 1:
        if not all(marker(last, stage).exists() for stage in ("prepare", *job.trainings())):
            raise RunFolderError(
                "the job is not trained", where=str(last.root),
                rule="a period continues a trained run", fix="run the job first: p5dist run",
            )  # fmt: skip
        return _new_period(job, names, files)
    begun = parse_job(last.job.read_bytes(), where=str(last.job))
    if not marker(last, "prepare").exists():  # other files may have come since
        again = _new_period(job, names[:-1], files)
        if again is None or again.files == _as_tuple(begun.prepare.source.files):
            return again
        return replace(again, fresh=True)
    if not all(marker(last, stage).exists() for stage in begun.stages() if stage != "report"):
        own = _as_tuple(begun.prepare.source.files)
        return _period(job, names[-2], len(names) - 1, own)
    return _new_period(job, names, files)


def _new_period(job: RunConfig, names: list[str], files: int | None) -> Period | None:
    """A period of the files that none of the runs ``names`` has read; None: there are none."""
    manifests = [Manifest.read(_folder(job, name).prepare) for name in names]
    new = new_files(job.prepare, manifests)
    return _period(job, names[-1], len(names), tuple(new[:files])) if new else None


def _runs(job: RunConfig) -> list[str]:
    """Names of the run of the job and of its periods.

    Raises:
        RunFolderError: a period is missing.
    """
    storage = Folder.open(job.storage)
    start = f"{job.name}-period-"
    there = storage.children() if storage.exists() else []
    named = re.compile(re.escape(start) + "[0-9]{4,}")
    found = sorted(n for n in there if named.fullmatch(n) and (storage / n / "job.yaml").exists())
    expected = [f"{start}{number:04d}" for number in range(1, len(found) + 1)]
    if found != expected:
        missing = next(name for name in expected if name not in found)
        raise RunFolderError(
            "a period is missing", where=f"{storage}/{missing}",
            rule="a period reads the histories of its users in the runs before it, which must stay",
            fix=f"restore it, or remove the periods after it ({found[-1]}) to go on from before",
        )  # fmt: skip
    return [job.name, *found]


def _folder(job: RunConfig, name: str) -> RunFolder:
    return RunFolder.at(Folder.open(job.storage) / name)


def _as_tuple(files: str | tuple[str, ...]) -> tuple[str, ...]:
    return (files,) if isinstance(files, str) else files


def _check(job: RunConfig) -> None:
    """Raise ConfigError unless the runs of a job can be continued."""
    if job.prepare.longer == "last" and job.prepare.max_length is not None:
        raise ConfigError(
            "a job that drops the older interactions of long histories cannot advance",
            where="prepare.longer", value="last",
            rule="interactions that are held out now train later", fix="longer: windows",
        )  # fmt: skip
    if not isinstance(job.prepare.split, TimeSplit):
        raise ConfigError(
            "only a job with a split by time can advance", where="prepare.split.kind",
            value=job.prepare.split.kind, rule="time: a period holds out the new interactions",
            fix="split: {kind: time, test: 0.1}",
        )  # fmt: skip
    if job.prepare.vocabulary.of != "all":
        raise ConfigError(
            "only a job whose vocabulary has all items can advance",
            where="prepare.vocabulary.of", value=job.prepare.vocabulary.of,
            rule="all: interactions of new items are held out now, and train in the next period",
            fix="vocabulary: {of: all}",
        )  # fmt: skip


def _period(job: RunConfig, before: str, number: int, files: tuple[str, ...]) -> Period:
    """Period ``number`` after the run ``before``."""
    earlier = _folder(job, before)
    manifest = Manifest.read(earlier.prepare)
    if manifest.last_time is None:
        raise RunFolderError(
            "the prepared data is of an earlier version", where=str(earlier.prepare),
            rule="the manifest has the time of the latest interaction",
            fix="prepare it again: --fresh",
        )  # fmt: skip
    if manifest.last_time > time.time() * c.SECOND:
        raise RunFolderError(
            "the latest interaction of a run lies in the future", where=str(earlier.prepare),
            value=_time(manifest.last_time),
            rule="a period holds out the interactions after this time",
            fix="prepare that run again without such rows: prepare.clean.time_range",
        )  # fmt: skip
    made: dict[str, Any] = job.model_dump(mode="json")
    made["name"] = f"{job.name}-period-{number:04d}"
    made["data_of"] = None
    prepare = made["prepare"]
    prepare["source"]["files"] = list(files)
    prepare["changed_inputs"] = "keep"  # tables about items and users change with the days
    prepare["continues"] = f"{job.storage.rstrip('/')}/{before}"
    prepare["split"] = {"kind": "time", "test": _time(manifest.last_time + 1)}
    for stage in job.trainings():
        section = made
        for part in stage.split("/"):
            section = section[part]
        section |= {
            "init_from": f"{job.storage.rstrip('/')}/{before}/{stage}",
            "init_optimizers": True,
            "steps": None,
            "epochs": job.advance.epochs,
            "schedule": made["advance"]["schedule"],
            "validation": None,  # all that was held out trains
        }
        for optimizer in ("tables", "dense"):
            section[optimizer]["lr"] *= job.advance.lr
    made["ranking"] |= _chosen(job, earlier)
    return Period(number, files, RunConfig.model_validate(made))


def _chosen(job: RunConfig, earlier: RunFolder) -> dict[str, Any]:
    """The settings of the ranking that the earlier run has chosen on its validation split: a period
    has none."""
    stages = job.ranking_stages()
    if not stages or not job.ranking.open:
        return {}
    file = earlier.training(stages[-1]) / CHOSEN
    found = file.read_json() if file.exists() else {}
    return {name: found[name] for name in ("item_to_item", "returns") if name in found}


def _time(microseconds: int) -> str:
    """ISO 8601."""
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)
    return moment.isoformat()
