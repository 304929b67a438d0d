"""The states of the stages of a run: to do, to continue or complete.

They are read from the run folder: a stage is complete once its marker exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from p5dist.config import RunConfig, parse_job
from p5dist.data.manifest import MANIFEST, Manifest
from p5dist.environment.redact import redact
from p5dist.errors import ConfigError, RunFolderError, ShardError
from p5dist.inference.lists.inputs import have_changed
from p5dist.prepare.inputs import Differences, differences
from p5dist.storage import Folder, RunFolder

State = Literal["to do", "to continue", "complete", "outdated"]
"""outdated: the prepared data is complete, but its input files have changed since."""

STATE = "state.json"
"""File in the run folder with the state of the latest command: running, or how it ended."""

_DERIVED = ("evaluate", "recommend", "report")  # cheap: repeated when their settings change


@dataclass(frozen=True)
class Step:
    """One stage of a job and its state."""

    stage: str
    state: State
    notes: tuple[str, ...] = ()
    """The input files that differ: ``added: a.csv, b.csv``."""


def select(job: RunConfig, wanted: list[str]) -> list[str]:
    """The stages that a user names, in the order of the job; all stages if ``wanted`` is empty.
    ``finetune`` means every fine-tuning.

    Raises:
        ConfigError: the job has no such stage.
    """
    stages = job.stages()
    for name in wanted:
        if name not in stages and not (name == "finetune" and job.finetune):
            raise ConfigError(
                f"unknown stage '{name}'", where=f"job {job.name}", value=name,
                rule=f"the stages of this job: {', '.join(stages)}",
                fix="name one of them, or add its section to the job file",
            )  # fmt: skip
    return [s for s in stages if not wanted or s in wanted or s.split("/")[0] in wanted]


def progress(
    job: RunConfig,
    folder: RunFolder,
    wanted: list[str],
    *,
    fresh: bool = False,
    inputs_at: str | None = None,
) -> list[Step]:
    """The states of the wanted stages (see :func:`select`).

    Args:
        fresh: as if the results of the first of these stages and all later stages were deleted.
        inputs_at: the folder where relative paths of the job begin; left out: the current folder.

    Raises:
        RunFolderError: the run folder belongs to another job.
    """
    stages = select(job, wanted)
    deleted = discarded(job, stages) if fresh else []
    check_owner(job, folder, without=deleted)
    steps = []
    for stage in stages:
        state: State = "to do" if stage in deleted else state_of(job, folder, stage)
        notes: tuple[str, ...] = ()
        if stage == "prepare" and state == "complete":
            found = input_changes(job, folder, inputs_at)
            if found and job.prepare.changed_inputs == "error":
                state, notes = "outdated", tuple(found.lines())
        steps.append(Step(stage, state, notes))
    return steps


def discarded(job: RunConfig, stages: list[str]) -> list[str]:
    """The stages whose results ``--fresh`` deletes: the first of the chosen stages, and all later
    stages of the job."""
    return job.stages()[job.stages().index(stages[0]) :]


def input_changes(job: RunConfig, folder: RunFolder, inputs_at: str | None = None) -> Differences:
    """The differences between the input files of the prepared data and the input files of now;
    none if there is no prepared data that this version reads.

    Args:
        inputs_at: as for :func:`progress`.
    """
    try:
        manifest = Manifest.read(folder.prepare)
    except ShardError:
        return Differences()
    return differences(job.prepare, manifest, inputs_at)


def check_inputs(job: RunConfig, folder: RunFolder, stages: list[str]) -> list[str]:
    """Compare the input files of complete prepared data with the input files of now. Differences
    are an error if ``prepare`` is among the chosen stages, else warnings.

    Returns:
        Warnings for the terminal.

    Raises:
        RunFolderError: files were added, removed or changed, and prepare.changed_inputs is error.
    """
    found = input_changes(job, folder)
    if not found:
        return [
            f"the files of {setting} cannot be found now; the prepared data stays in use"
            for setting in found.unseen
            if "prepare" in stages
        ]
    if "prepare" in stages and job.prepare.changed_inputs == "error":
        raise RunFolderError(
            "input files differ from the files that the data was prepared from",
            where=str(folder.prepare), value="; ".join(found.lines()),
            rule="the prepare stage is complete and would not read them",
            fix="--fresh prepares the files of now and deletes all results of this run; "
            "prepare.changed_inputs=keep keeps the prepared data; a run of another name (name=…) "
            "keeps both",
        )  # fmt: skip
    return [f"the prepared data is older than its input files: {line}" for line in found.lines()]


def check_shared_data(job: RunConfig, folder: RunFolder) -> None:
    """If the job uses the prepared data of another run (``data_of``): check that the data was
    prepared with the settings of this job, and that no stage of this run was trained on other data.

    Raises:
        RunFolderError: other settings, or the data was prepared again since.
    """
    if job.data_of is None or not (folder.prepare / MANIFEST).exists():
        return  # a stage that reads the data says that there is none
    other = RunFolder.at(folder.prepare.above)
    then: dict[str, Any] = {}
    if other.job.exists():
        owner = parse_job(other.job.read_bytes(), where=str(other.job))
        then = redact(owner.identity("prepare"))
    different = _difference(then, redact(job.identity("prepare")))
    if different is not None:
        key, old, new = different
        raise RunFolderError(
            f"the data of run '{job.data_of}' was prepared with other settings",
            where=str(folder.prepare), value=f"{key}: {old!r} there, {new!r} here",
            rule="a run with data_of has the same seed, feed.lanes and section prepare",
            fix="name a run with these settings, or leave data_of out",
        )  # fmt: skip
    now = Manifest.read(folder.prepare).fingerprint
    for stage in job.trainings():
        file = marker(folder, stage)
        trained_on = file.read_json().get("data_fingerprint") if file.exists() else None
        if trained_on is not None and trained_on != now:
            raise RunFolderError(
                f"the data of run '{job.data_of}' was prepared again since {stage} was trained",
                where=str(file), value=f"data {trained_on} then, {now} now",
                rule="a run is trained and evaluated on one data set",
                fix="start anew: --fresh",
            )  # fmt: skip


def marker(folder: RunFolder, stage: str) -> Folder:
    """The file that exists once a stage is complete."""
    if stage == "prepare":
        return folder.prepare / MANIFEST
    if stage == "report":
        return folder.report
    return folder.root / stage / "result.json"


def state_of(job: RunConfig, folder: RunFolder, stage: str) -> State:
    """The state of a stage."""
    file = marker(folder, stage)
    if stage == "report":
        others = [marker(folder, other) for other in job.stages() if other != "report"]
        whole = file.exists() and all(other.exists() for other in others)
        return "complete" if whole and is_about(file, job, folder) else "to do"
    if not file.exists():
        left = dict.fromkeys(("prepare", "recommend"), "scratch")
        left |= dict.fromkeys(job.trainings(), "checkpoints")
        begun = stage in left and (folder.root / stage / left[stage]).exists()
        return "to continue" if begun else "to do"
    if stage in _DERIVED:
        result = file.read_json()
        if result["job_fingerprint"] != job.fingerprint(stage):
            return "to do"
        if stage == "recommend" and have_changed(job, result.get("files", [])):
            return "to do"
    return "complete"


def report_end(job: RunConfig, folder: RunFolder) -> str:
    """The end of the page about the present results: a comment that no browser shows."""
    state = sha256(job.fingerprint("report").encode())
    for stage in job.stages():
        file = marker(folder, stage)
        if stage != "report" and file.exists():
            state.update(f"|{stage} ".encode() + file.read_bytes())
    return f"<!-- of the results {state.hexdigest()[:16]} -->\n"


def is_about(page: Folder, job: RunConfig, folder: RunFolder) -> bool:
    """Whether a page is about the present results."""
    return page.read_bytes().endswith(report_end(job, folder).encode())


def check_owner(job: RunConfig, folder: RunFolder, without: Sequence[str] = ()) -> None:
    """Raise RunFolderError unless the stages in the folder were made with the settings of this
    job.

    Args:
        without: stages that are not checked.
    """
    if not folder.job.exists():
        return
    owner = parse_job(folder.job.read_bytes(), where=str(folder.job))
    for stage in owner.stages():
        if stage in (*_DERIVED, *without) or not (folder.root / stage).exists():
            continue
        then = redact(owner.identity(stage))
        now = redact(job.identity(stage)) if stage in job.stages() else {}
        different = _difference(then, now)
        if different is not None:
            key, old, new = different
            raise RunFolderError(
                f"the run folder belongs to another job: {stage} was made with other settings",
                where=str(folder.root), value=f"{key}: {old!r} then, {new!r} now",
                rule="a run folder holds one job",
                fix=f"give this job another name (name=…), or start anew: --fresh {stage}",
            )  # fmt: skip


def _difference(then: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key whose values differ: (dotted key, old, new)."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return None if then == now else (key, then, now)
    for name in [*then, *(n for n in now if n not in then)]:
        below = f"{key}.{name}" if key else name
        if found := _difference(then.get(name), now.get(name), below):
            return found
    return None
