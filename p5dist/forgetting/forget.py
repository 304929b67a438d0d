"""``p5dist forget JOB --users FILE``: all runs of a job, in an order that a killed command goes on
with."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from p5dist import __version__
from p5dist.config import RunConfig, parse_job
from p5dist.data import columns as c
from p5dist.data.manifest import MANIFEST, Manifest
from p5dist.errors import RunFolderError
from p5dist.forgetting.described import mentions
from p5dist.forgetting.models import Seen, seen_by, untrain
from p5dist.forgetting.people import People, find_people, read_people
from p5dist.forgetting.prepared import (
    Removed,
    finish,
    forget_in_prepared,
    removed_from,
)
from p5dist.forgetting.results import forget_in_results
from p5dist.forgetting.runs import related_runs
from p5dist.pipeline import lock
from p5dist.storage import Folder, RunFolder

RECORD = "forgotten.json"
"""In a run folder: what was removed, when; no ids."""
_TEXT = (".json", ".jsonl", ".yaml", ".html", ".txt", ".log", ".csv", ".svg", ".md")


@dataclass(frozen=True)
class _Run:
    """One run, and the people as it knows them."""

    folder: RunFolder
    job: RunConfig
    manifest: Manifest
    people: People
    removed: Removed
    """What its prepared data has of them; of a run with data of its own."""

    @property
    def name(self) -> str:
        return self.folder.root.name

    @property
    def owns(self) -> bool:
        """Whether the prepared data is its own."""
        return self.folder.data_of is None


def forget(
    job: RunConfig, users: str, *, dry_run: bool = False, retrain: bool = False
) -> dict[str, Any]:
    """Remove people from the runs of a job.

    Args:
        users: file with their external ids.
        dry_run: only say what would be done.
        retrain: discard the checkpoints that have seen them, so that the stages train again.

    Returns:
        By run, what was removed, and what the models have seen.

    Raises:
        RunFolderError: the job has no prepared data; something of the people is left.
        BusyError: another process works in one of the runs.
    """
    names = read_people(job, users)
    with ExitStack() as locks:
        runs = _open(job, names, locks, dry_run)
        found = {run.name: _about(run, runs, retrain=retrain) for run in runs}
        known = set().union(*(run.people.known for run in runs))
        if not dry_run:
            _remove(runs, found, retrain=retrain)
            for run in runs:
                if _removed(found[run.name]):
                    _record(run.folder.root, len(names), found[run.name])
            _check_nothing_left(runs)
    return {
        "named": len(names), "unknown": len(names) - len(known), "dry_run": dry_run, "runs": found
    }  # fmt: skip


def _removed(about: dict[str, Any]) -> bool:
    numbers = ("users", "interactions", "targets", "lists", "user_rows", "train_again")
    return any(about.get(name) for name in numbers)


def _about(run: _Run, runs: list[_Run], *, retrain: bool) -> dict[str, Any]:
    """What a run has of the people; to train again, also of those who left before."""
    (owner,) = (
        one for one in runs if one.owns and str(one.folder.prepare) == str(run.folder.prepare)
    )
    records = _records(run.folder.root) if retrain else []
    seen = seen_by(run.job, run.folder, run.manifest, owner.removed.rows, records)
    found: dict[str, Any] = {"models": [one.as_json() for one in seen]}
    if run.owns:
        found |= {"users": len(run.people.ids), "interactions": run.removed.interactions}
    return found


def _remove(runs: list[_Run], found: dict[str, Any], *, retrain: bool) -> None:
    """The vocabularies, which know who is who, change last: until then a killed command can be
    given again."""
    discarded: list[str] = []
    for run in runs:
        log = logging.LoggerAdapter(logging.getLogger("p5dist"), {"run": run.name})
        log.info("people leave its results")
        seen = [Seen(**one) for one in found[run.name]["models"]]
        again = []
        if retrain:
            again = untrain(run.job, run.folder, run.manifest, seen, discarded)
        left = forget_in_results(run.job, run.folder, run.manifest, run.people)
        found[run.name] |= {**asdict(left), "train_again": again}
    for run in runs:
        if run.owns:
            log = logging.LoggerAdapter(logging.getLogger("p5dist"), {"run": run.name})
            log.info("people leave its prepared data")
            forget_in_prepared(run.folder.prepare, run.manifest, run.people, run.removed)


def _open(job: RunConfig, names: pa.StringArray, locks: ExitStack, dry_run: bool) -> list[_Run]:
    """All runs, locked; what a killed command left half done in their data is finished first."""
    folders = related_runs(job)
    if not any((folder.prepare / MANIFEST).exists() for folder in folders):
        raise RunFolderError(
            "no prepared data", where=f"{job.storage}/{job.name}",
            rule="people are removed from runs whose prepare stage is complete",
            fix="check name and storage of the job",
        )  # fmt: skip
    runs = []
    for folder in folders:
        locks.enter_context(lock(folder))
        if not (folder.prepare / MANIFEST).exists():
            continue
        if not dry_run:
            finish(folder.prepare)
        its_job = parse_job(folder.job.read_bytes(), where=str(folder.job))
        manifest = Manifest.load(folder.prepare)
        people, removed = find_people(names, folder.prepare), Removed()
        if folder.data_of is None:
            removed = removed_from(folder.prepare, manifest, people)
        runs.append(_Run(folder, its_job, manifest, people, removed))
    return runs


def _record(run: Folder, named: int, about: dict[str, Any]) -> None:
    made = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "version": __version__, "named": named}
    (run / RECORD).write_json([*_records(run), made | about])


def _records(run: Folder) -> list[dict[str, Any]]:
    file = run / RECORD
    found: list[dict[str, Any]] = file.read_json() if file.exists() else []
    return found


def _check_nothing_left(runs: list[_Run]) -> None:
    """Raise RunFolderError if a file of the runs still names one of the people."""
    left = [
        str(file)
        for run in runs
        for file in _files(run.folder.root)
        if _names_one(file, run.people)
    ]
    if left:
        raise RunFolderError(
            "files still name one of the people", where=", ".join(left[:5]), value=len(left),
            rule="nothing of them is left in the runs of the job",
            fix="remove these files, or make their stages again (--fresh STAGE)",
        )  # fmt: skip


def _files(root: Folder) -> list[Folder]:
    found = root.fs.get_file_info(pafs.FileSelector(root.path, recursive=True))
    return [Folder(root.fs, info.path) for info in found if info.type == pafs.FileType.File]


def _names_one(file: Folder, people: People) -> bool:
    """Whether a file has one of the people: in a column of users, or in a sentence."""
    if file.name.endswith(".parquet"):
        with pq.ParquetFile(file.path, filesystem=file.fs) as opened:
            schema = opened.schema_arrow
            names = [n for n in (c.USER, c.USER_ID) if n in schema.names]
            if file.path.endswith("vocabulary/user.parquet"):
                names.append(c.EXTERNAL_ID)
            names = [n for n in names if pa.types.is_string(schema.field(n).type)]
            return any(
                people.among(batch.column(name)).any()
                for name in names
                for batch in opened.iter_batches(columns=[name])
            )
    if not file.name.endswith(_TEXT):
        return False
    lines = file.read_bytes().decode(errors="replace").splitlines()
    return any(mentions(line, people) for line in lines)


def in_words(found: dict[str, Any]) -> list[str]:
    """The lines that the command prints."""
    would = "would be " if found["dry_run"] else ""
    lines = [f"people named: {found['named']:,}"]
    if found["unknown"]:
        lines.append(
            f"warning: {found['unknown']:,} of them are in no vocabulary of these runs; if they "
            "did not leave before, look at the file"
        )
    for name, about in found["runs"].items():
        removed = []
        if "users" in about:
            removed.append(f"{about['users']:,} users with {about['interactions']:,} interactions")
        for key, words in (
            ("targets", "targets"), ("lists", "lists"), ("user_rows", "rows of user tables"),
        ):  # fmt: skip
            if about.get(key):
                removed.append(f"{about[key]:,} {words}")
        lines.append(f"{name}: {', '.join(removed) or 'nothing'} {would}removed")
        trained = {one["stage"] for one in about["models"] if Seen(**one).itself}
        lines += [f"  {_model(Seen(**one), about, trained)}" for one in about["models"]]
        if about.get("train_again"):
            stages = ", ".join(about["train_again"])
            lines.append(f"  train again: {stages} (p5dist run, with job.yaml of {name})")
    return lines


def _model(seen: Seen, about: dict[str, Any], trained: set[str]) -> str:
    if seen.stage in about.get("train_again", ()):
        return f"{seen.stage}: its checkpoints that have seen them are discarded"
    if not seen.itself:
        start = seen.starts_from
        such = f", but starts from {start}" if start else ""
        return f"{seen.stage}: has not trained on them{such}"
    text = (
        f"{seen.stage}: has trained on them from step {(seen.first or 0) + 1:,} of {seen.steps:,} "
        "on; its shared weights hold what it learned. --retrain: it trains again "
    )
    if seen.starts_from in trained:
        return text + f"from the start, since it starts from {seen.starts_from}"
    if seen.before is None:
        return text + "from the start, since every checkpoint has seen them"
    return text + f"from step {seen.before:,}, whose checkpoint has not seen them"
