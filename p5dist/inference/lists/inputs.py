"""The files that the section ``recommend`` names: whether they are there, what they were when lists
were made, and whether they have changed since. Needs neither torch nor Ray."""

from __future__ import annotations

from typing import Any

from p5dist.config import RunConfig
from p5dist.data.manifest import InputFile
from p5dist.environment.redact import redact_text
from p5dist.errors import P5Error
from p5dist.prepare.inputs import differs
from p5dist.prepare.layout import Layout, SourceFile
from p5dist.prepare.listing import Listed, list_files, once
from p5dist.prepare.sources import digest, find_files, partition_of
from p5dist.storage import open_filesystem

ID_FILES = ("users", "allow", "stock", "deny")
"""Settings that name files with ids."""
HISTORIES = "recommend.histories"
NEW_PEOPLE = "new people"
"""In result.json: lists are for the people of ``recommend.histories``."""


def check_files(job: RunConfig) -> None:
    """Raise before any work is done.

    Raises:
        DataError: a setting names no file; a table of histories cannot be read.
        MissingColumnError: a column that the job names is not in a table of histories.
    """
    for key, patterns in _patterns(job).items():
        for pattern in patterns:
            list_files(pattern, key)
    section = job.recommend
    if section is not None and section.histories is not None:
        find_files(section.histories.files, Layout.of_log(section.histories, section=HISTORIES))


def record(job: RunConfig) -> list[dict[str, Any]]:
    """What result.json says about the files; reads local files as a whole."""
    return [
        InputFile(
            setting=key, url=redact_text(file.url), bytes=file.size, version=file.version,
            digest=digest(SourceFile(
                file.url, file.size, (), partition_of(open_filesystem(file.url)[1]),
                version=file.version,
            )),
        ).model_dump()
        for key, patterns in _patterns(job).items()
        for file in _list(patterns, key)
    ]  # fmt: skip


def have_changed(job: RunConfig, recorded: list[dict[str, Any]]) -> bool:
    """Whether files were added, removed or changed since :func:`record`. Files of a setting that
    are all gone are no change: lists need not be made anew without them."""
    then = [InputFile.model_validate(file) for file in recorded]
    for key, patterns in _patterns(job).items():
        before = {file.url: file for file in then if file.setting == key}
        try:
            now = {redact_text(file.url): file for file in _list(patterns, key)}
        except (P5Error, OSError):
            continue
        if before.keys() != now.keys() or any(differs(before[url], now[url]) for url in now):
            return True
    return False


def _patterns(job: RunConfig) -> dict[str, tuple[str, ...]]:
    """What names the files, by key of the job file."""
    section = job.recommend
    if section is None:
        return {}
    found = {f"recommend.{name}": getattr(section, name) for name in ID_FILES}
    if section.histories is not None:
        found[f"{HISTORIES}.files"] = section.histories.files
    return {
        key: (files,) if isinstance(files, str) else files
        for key, files in found.items()
        if files is not None
    }


def _list(patterns: tuple[str, ...], key: str) -> list[Listed]:
    return once(file for pattern in patterns for file in list_files(pattern, key))
