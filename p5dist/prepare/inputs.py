"""The input files of prepared data: what the manifest records about them, and what differs later.

The files of a setting that cannot be looked at are not compared: a raw log may be deleted once it
is prepared, and a machine that trains need not reach it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from p5dist.config import RunConfig
from p5dist.config.prepare import Prepare
from p5dist.config.registry import FORMATS
from p5dist.config.splits import GivenSplit
from p5dist.data.manifest import InputFile, Manifest
from p5dist.datasets.public import SCHEME, resolve
from p5dist.environment.redact import redact_text
from p5dist.errors import DataError, P5Error
from p5dist.prepare.earlier import Earlier
from p5dist.prepare.lakehouse import is_table
from p5dist.prepare.layout import Layout, SourceFile
from p5dist.prepare.listing import Listed, list_files, once
from p5dist.prepare.sources import Inputs, digest, partition_of
from p5dist.storage import open_filesystem

_NAMED = 5  # files of a kind of difference that a message names


def record(inputs: Inputs, prepare: Prepare) -> tuple[InputFile, ...]:
    """What the manifest says about the input files; reads local files as a whole."""
    files = (inputs.log, inputs.validation, inputs.test, inputs.items, inputs.users)
    kinds = _are_files(prepare)
    return tuple(
        InputFile(
            setting=setting, url=_shown(file.url, patterns), bytes=file.size, version=file.version,
            digest=digest(file, is_file=kinds[setting]), snapshot=file.snapshot,
        )
        for (setting, patterns), found in zip(_patterns(prepare).items(), files, strict=True)
        for file in found
    )  # fmt: skip


def fingerprint(job: RunConfig, files: Iterable[InputFile], earlier: Earlier | None) -> str:
    """SHA-256 (16 hex digits) of the job's settings for this stage, of the files, and of the run
    that the log continues."""
    state = sha256(job.fingerprint("prepare").encode())
    if earlier is not None:
        state.update(f"|{earlier.newest.fingerprint}".encode())
    for file in files:
        state.update(f"|{file.setting} {file.digest}".encode())
    return state.hexdigest()[:16]


@dataclass(frozen=True)
class Differences:
    """What differs between the input files of prepared data and the input files of now."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    """Settings with files that cannot be looked at."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def lines(self) -> list[str]:
        """``added: a.csv, b.csv and 3 more``, …"""
        found = []
        for what in ("added", "removed", "changed"):
            files = getattr(self, what)
            more = f" and {len(files) - _NAMED:,} more" if len(files) > _NAMED else ""
            if files:
                found.append(f"{what}: {', '.join(files[:_NAMED])}{more}")
        return found


def differences(prepare: Prepare, manifest: Manifest, folder: str | None = None) -> Differences:
    """Compare the input files that the manifest records with the files that the job names now.

    A file is the same if size and version are the same, or size and content: local files of
    another time are read. A job may have been moved together with its files. Files of public data
    sets are not compared: their checksums are known.

    Args:
        folder: where relative paths begin; left out: the current folder.
    """
    base = str(Path(folder or ".").absolute())
    added, removed, changed, unseen = list[str](), list[str](), list[str](), list[str]()
    kinds = _are_files(prepare)
    for setting, patterns in _patterns(prepare).items():
        if not kinds[setting]:  # a database or a topic goes on; the run stays as it is
            continue
        before = [
            file
            for file in manifest.inputs
            if file.setting == setting and not file.url.startswith(SCHEME)
        ]
        now = _list(patterns, base) if before else {}
        then = {_place(file.url, manifest.inputs_from, base, now): file for file in before}
        if then and not now:
            unseen.append(setting)
            continue
        added += sorted(now.keys() - then.keys())
        removed += sorted(then.keys() - now.keys())
        common = sorted(then.keys() & now.keys())
        changed += [url for url in common if differs(then[url], now[url])]
    return Differences(tuple(added), tuple(removed), tuple(changed), tuple(unseen))


def new_files(prepare: Prepare, taken: Iterable[Manifest]) -> list[str]:
    """The files of the log that no earlier run has read, in the order of the log.

    Args:
        taken: manifests of the earlier runs.

    Raises:
        DataError: a file that an earlier run has read was changed since; no file is there.
    """
    files = prepare.source.files
    patterns = (files,) if isinstance(files, str) else files
    key = "prepare.source.files"
    read_by = Layout.of_log(prepare.source).source_format
    listed = read_by.listed(patterns, key)
    if not read_by.is_files:
        places = [f.url for one in taken for f in one.inputs if f.setting == key]
        return read_by.remaining(listed, places)
    now = {redact_text(file.url): file for file in listed}
    base, read = str(Path.cwd()), dict[str, InputFile]()
    for manifest in taken:
        for file in manifest.inputs:
            if file.setting == key:
                read[_place(file.url, manifest.inputs_from, base, now)] = file
    changed = [url for url in sorted(read.keys() & now.keys()) if differs(read[url], now[url])]
    if changed:
        raise DataError(
            "files of the log that were read before have changed", where=key,
            value=", ".join(changed[:_NAMED]),
            rule="new interactions come in new files: what was trained is not trained again",
            fix="write the new interactions into files of their own, and restore these; or run "
            "the job anew",
        )  # fmt: skip
    return [file.url for shown, file in now.items() if shown not in read]


def _patterns(prepare: Prepare) -> dict[str, tuple[str, ...]]:
    """What names the input files, by key of the job file."""
    split, found = prepare.split, dict[str, str | tuple[str, ...] | None]()
    found["prepare.source.files"] = prepare.source.files
    for part in ("validation", "test"):
        given = isinstance(split, GivenSplit)
        found[f"prepare.split.{part}"] = getattr(split, part) if given else None
    for side in ("items", "users"):
        found[f"prepare.{side}.files"] = getattr(getattr(prepare, side), "files", None)
    return {
        key: (files,) if isinstance(files, str) else files or () for key, files in found.items()
    }


def _are_files(prepare: Prepare) -> dict[str, bool]:
    """By key of the job file: whether it names files, not places in a database or topic."""
    log = FORMATS.find(prepare.source.format).is_files
    found = {
        f"prepare.{side}.files": table is None or FORMATS.find(table.format).is_files
        for side, table in (("items", prepare.items), ("users", prepare.users))
    }
    parts = ("prepare.source.files", "prepare.split.validation", "prepare.split.test")
    return found | dict.fromkeys(parts, log)


def _shown(url: str, patterns: Iterable[str]) -> str:
    """The URL without secrets; a file of a public data set as the job file names it."""
    for pattern in patterns:
        if pattern.startswith(SCHEME) and resolve(pattern) == url:
            return pattern
    return redact_text(url)


def _list(patterns: Iterable[str], base: str) -> dict[str, Listed]:
    """The files that are there now, by URL without secrets; empty if they cannot be looked at."""
    found: list[Listed] = []
    for pattern in patterns:
        if pattern.startswith(SCHEME):
            continue
        local = "://" not in pattern and not pattern.startswith("~") and not is_table(pattern)
        try:
            files = list_files(str(Path(base, pattern)) if local else pattern, "")
        except DataError:  # no such file
            continue
        except (P5Error, OSError):  # no access from here
            return {}
        found += files
    return {redact_text(file.url): file for file in once(found)}


def _place(url: str, then: str, now: str, there: Container[str]) -> str:
    """Where a recorded file is: at its URL, or at the same place below the folder of now."""
    moved = now + url.removeprefix(then)
    return moved if url not in there and url.startswith(then + "/") and moved in there else url


def differs(before: InputFile, now: Listed) -> bool:
    """Whether a file is another one than the recorded one: by size and version, else by content."""
    if now.size != before.bytes:
        return True
    if now.version == before.version:
        return False
    path = open_filesystem(now.url)[1]
    file = SourceFile(now.url, now.size, (), partition_of(path), version=now.version)
    return digest(file) != before.digest
