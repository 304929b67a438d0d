"""Every error that p5dist raises for a user's mistake or a broken environment.

::

    P5Error
    ├── ConfigError            the job file: unknown key, wrong value, rule between fields broken
    ├── DataError              the raw log or an attribute table
    │   ├── MissingColumnError     a named column is not in the files
    │   └── EmptyLogError          no valid row is left
    ├── ShardError             a prepared shard or manifest is missing, truncated or corrupt
    ├── RunFolderError         the run folder belongs to another job
    │   └── BusyError              another process is working in it
    ├── CheckpointError        no complete checkpoint, or one that does not fit; a save that failed
    ├── StorageError           object storage: denied, unreachable, no such bucket, cut short
    ├── ResourceError          the cluster or the disk cannot hold what the job asks for
    ├── ClusterError           no job server, one that refuses, a cluster that does not come up
    ├── TrainingError          a loss that is not finite, a worker group that keeps failing
    ├── StoppedError           asked to stop (SIGTERM, Ctrl-C), with the work saved
    └── InstallError           packages that do not fit each other, a download that failed

All of them survive pickling, so an error raised in a worker reaches the user as it was written.
"""

from __future__ import annotations

from typing import Any


class P5Error(Exception):
    """What happened, where, the offending value, the rule, and what to change.

    Args:
        what: one sentence that says what is wrong.
        where: file, key path, or address.
        value: the value found there (shown with ``repr`` and shortened).
        rule: the rule that it breaks.
        fix: what to change.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        value: Any = None,
        rule: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.value = None if value is None else _shorten(value)
        self.rule = rule
        self.fix = fix
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.what]
        for label in ("where", "value", "rule", "fix"):
            text = getattr(self, label)
            if text is not None:
                lines.append(f"  {label + ':':<7}{text}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.value, self.rule, self.fix))


class ConfigError(P5Error):
    """The job file or an override is wrong."""


class DataError(P5Error):
    """The raw log or an attribute table is wrong."""


class MissingColumnError(DataError):
    """A column that the job file names is not in the files."""


class EmptyLogError(DataError):
    """No valid interaction is left after cleaning."""


class ShardError(P5Error):
    """A prepared shard or its manifest is missing, truncated or corrupt."""


class RunFolderError(P5Error):
    """The run folder belongs to another job, or another process is using it."""


class BusyError(RunFolderError):
    """Another process is working in the run folder."""


class CheckpointError(P5Error):
    """A checkpoint is incomplete, does not fit, or could not be written."""


class StorageError(P5Error):
    """Object storage denies, cannot be reached, or keeps failing."""


class ResourceError(P5Error):
    """The cluster or the disk cannot hold what the job asks for."""


class ClusterError(P5Error):
    """A job server cannot be reached, refuses, or knows no such job; a cluster does not come up."""


class TrainingError(P5Error):
    """Training cannot go on."""


class StoppedError(P5Error):
    """The job was asked to stop, and has saved where it was."""


class InstallError(P5Error):
    """The installation, or something that must be downloaded, is not usable."""


def _shorten(value: Any, limit: int = 200) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _rebuild(
    kind: type[P5Error],
    what: str,
    where: str | None,
    value: str | None,
    rule: str | None,
    fix: str | None,
) -> P5Error:
    return kind(what, where=where, value=value, rule=rule, fix=fix)
