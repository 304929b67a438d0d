"""Tables of a lakehouse: a snapshot of a table is a list of Parquet files.

::

    delta:/tables/events          the newest version of a Delta table
    delta:s3://bucket/events@12   version 12
    iceberg:/tables/events/metadata/v3.metadata.json    the current snapshot of an Iceberg table
    iceberg:CATALOG.shop.events@5938470293              a snapshot, by a catalog of PyIceberg

The files are read as other Parquet files are. What a list of files cannot say is refused: rows that
the table deletes without rewriting their files, and columns that were renamed in the table only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from p5dist.environment.extras import need
from p5dist.errors import DataError


@dataclass(frozen=True)
class Snapshot:
    """The files of a table at one time."""

    version: str
    """Number of the version, or id of the snapshot."""
    files: tuple[str, ...]
    """Paths or URLs, sorted."""


def is_table(pattern: str) -> bool:
    """Whether a setting names a table, not files."""
    return pattern.partition(":")[0] in _READERS and not pattern.partition(":")[2].startswith("//")


def without_version(pattern: str) -> str:
    """The table that a pattern names, at whatever version."""
    return _parts(pattern)[0]


def read_snapshot(pattern: str, key: str) -> Snapshot:
    """The files of the table that ``pattern`` names.

    Args:
        key: of the job file that names the table, for the message.

    Raises:
        DataError: no such table or snapshot; a table that a list of files does not describe.
        ConfigError: the package that reads the table is not installed.
    """
    kind = pattern.partition(":")[0]
    place, version = _parts(pattern)
    found = _READERS[kind](place.partition(":")[2], version, key)
    if not found.files:
        raise DataError(
            "a table without rows", where=key, value=pattern,
            rule="a snapshot with at least one data file", fix=f"correct {key}",
        )  # fmt: skip
    return found


def _parts(pattern: str) -> tuple[str, str | None]:
    place, at, version = pattern.rpartition("@")
    return (place, version) if at and "/" not in version else (pattern, None)


def _delta(place: str, version: str | None, key: str) -> Snapshot:
    deltalake = need("deltalake", "delta", "delta:…")
    try:
        number = None if version is None else int(version)
        table = deltalake.DeltaTable(place, version=number)
        features = set(table.protocol().reader_features or ())
        files = table.file_uris()
    except (ValueError, OSError, deltalake.exceptions.DeltaError) as e:
        raise _unreadable("Delta table", f"delta:{place}", version, key, e) from e
    strange = sorted(features & {"deletionVectors", "columnMapping"})
    if strange:
        raise _refused(
            f"delta:{place}", key, ", ".join(strange),
            "REORG TABLE … APPLY (PURGE) and disabling deletion vectors rewrites the files; "
            "column mapping needs a copy of the table",
        )  # fmt: skip
    return Snapshot(str(table.version()), tuple(sorted(map(_path, files))))


def _iceberg(place: str, version: str | None, key: str) -> Snapshot:
    table_of = need("pyiceberg.table", "iceberg", "iceberg:…")
    errors = need("pyiceberg.exceptions", "iceberg", "iceberg:…")
    try:
        if place.endswith(".json"):
            table = table_of.StaticTable.from_metadata(place)
        else:
            catalog, _, name = place.partition(".")
            load = need("pyiceberg.catalog", "iceberg", "iceberg:…").load_catalog
            table = load(catalog).load_table(name)
        snapshot = table.current_snapshot()
        if version is not None:
            snapshot = table.snapshot_by_id(int(version))
        if snapshot is None:
            raise ValueError("the table has no such snapshot")
        tasks = list(table.scan(snapshot_id=snapshot.snapshot_id).plan_files())
    except (ValueError, OSError, errors.RESTError, *_iceberg_errors(errors)) as e:
        raise _unreadable("Iceberg table", f"iceberg:{place}", version, key, e) from e
    if any(task.delete_files for task in tasks):
        raise _refused(
            f"iceberg:{place}", key, "delete files", "rewrite the data files of the table: "
            "CALL system.rewrite_data_files(…)",
        )  # fmt: skip
    return Snapshot(
        str(snapshot.snapshot_id), tuple(sorted(_path(t.file.file_path) for t in tasks))
    )


_READERS: dict[str, Callable[[str, str | None, str], Snapshot]] = {
    "delta": _delta,
    "iceberg": _iceberg,
}


def _iceberg_errors(errors: Any) -> list[type[Exception]]:
    named = ("NoSuchTableError", "NoSuchNamespaceError", "NotInstalledError", "ValidationError")
    return [getattr(errors, name) for name in named if hasattr(errors, name)]


def _path(url: str) -> str:
    """A local file as a path."""
    return url.removeprefix("file://") if url.startswith("file:///") else url.removeprefix("file:")


def _unreadable(
    what: str, place: str, version: str | None, key: str, error: Exception
) -> DataError:
    text = (str(error).strip() or repr(error)).splitlines()[0]
    at = "" if version is None else f", version {version}"
    return DataError(
        f"the {what} cannot be read: {text}", where=key, value=place + at,
        rule="a table that is there, with the version that the job names",
        fix=f"correct {key}; a version that was removed (vacuum, expire_snapshots) cannot be read "
        "again: name a later one",
    )  # fmt: skip


def _refused(place: str, key: str, what: str, fix: str) -> DataError:
    return DataError(
        "a table whose data files are not its rows", where=key, value=f"{place}: {what}",
        rule="all rows of the data files are rows of the table, and columns have their names",
        fix=fix,
    )  # fmt: skip
