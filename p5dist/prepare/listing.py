"""Which files a setting names: paths, globs, folders, URLs, ``dataset:NAME/FILE``, tables of a
lakehouse."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from p5dist.errors import DataError
from p5dist.prepare.lakehouse import is_table, read_snapshot, without_version
from p5dist.storage import open_filesystem

_VERSIONS = ("ETag", "LastModified", "mtime", "created")
"""What a remote file system may say about the version of a file, the best first."""


@dataclass(frozen=True)
class Listed:
    """A file that is there."""

    url: str
    size: int
    version: str
    """Time of the last change in nanoseconds since 1970; of a remote file its ETag, if there is
    one."""
    snapshot: str = ""
    """The table and its version that the file is a part of, as in ``delta:/events@12``."""


def list_files(pattern: str, key: str) -> list[Listed]:
    """The files that ``pattern`` names, sorted by their paths. What is hidden or begins with an
    underscore is left out, unless it is named outright.

    Args:
        key: of the job file that names the pattern, for the message.

    Raises:
        DataError: nothing is there.
    """
    if pattern.startswith("dataset:"):
        from p5dist.datasets.public import resolve

        pattern = resolve(pattern)
    if is_table(pattern):
        return _files_of_table(pattern, key)
    fs, path = open_filesystem(pattern)
    found = _local(path) if isinstance(fs, pafs.LocalFileSystem) else _remote(fs.handler.fs, path)
    if not found:
        raise DataError(
            "no such file", where=key, value=pattern,
            rule="a path, a glob, a folder, a URL, dataset:NAME/FILE, delta:TABLE or iceberg:TABLE",
            fix=f"correct {key}; relative paths start at the current folder",
        )  # fmt: skip
    scheme = pattern.split("://", 1)[0] + "://" if "://" in pattern else ""
    return [Listed(scheme + name, *found[name]) for name in sorted(found)]


def _files_of_table(pattern: str, key: str) -> list[Listed]:
    """The data files of a table, whatever their names begin with."""
    found = read_snapshot(pattern, key)
    name = f"{without_version(pattern)}@{found.version}"
    with ThreadPoolExecutor(16) as pool:
        listed = pool.map(lambda url: list_files(url, key), found.files)
        return [replace(file, snapshot=name) for (file,) in listed]


def place_of(url: str) -> str:
    """The same text for all ways to write the place of one file: relative, absolute, through
    links."""
    fs, path = open_filesystem(url)
    return str(Path(path).resolve()) if isinstance(fs, pafs.LocalFileSystem) else url


def once(files: Iterable[Listed]) -> list[Listed]:
    """The files without those that came before, however they are named."""
    found: dict[str, Listed] = {}
    for file in files:
        found.setdefault(place_of(file.url), file)
    return list(found.values())


def _local(path: str) -> dict[str, tuple[int, str]]:
    fs = pafs.LocalFileSystem()
    found: list[pafs.FileInfo] = []
    for info in fs.get_file_info(glob.glob(path, recursive=True) if _wild(path) else [path]):  # noqa: PTH207
        if info.type == pafs.FileType.Directory:
            found += fs.get_file_info(pafs.FileSelector(info.path, recursive=True))
        else:
            found.append(info)
    files = {info.path: (int(info.size), str(info.mtime_ns)) for info in found if info.is_file}
    return {name: files[name] for name in _shown(files, path)}


def _remote(fs: Any, path: str) -> dict[str, tuple[int, str]]:
    """As :func:`_local`; listings have sizes and versions, so that few files are asked for."""
    path = path.rstrip("/")
    if _wild(path):
        found: dict[str, Any] = fs.glob(path, detail=True)
    else:
        try:
            found = {path: fs.info(path)}
        except FileNotFoundError:
            found = {}
    for name, info in list(found.items()):
        if info["type"] == "directory":
            found |= fs.find(name, detail=True)
    files = {
        name: (int(info["size"]), _version(info))
        for name, info in found.items()
        if info["type"] == "file" and not name.endswith("/")  # an empty object stands for a folder
    }
    return {name: files[name] for name in _shown(files, path)}


def _wild(path: str) -> int:
    """Where the first wildcard of a glob is; 0: ``path`` is no glob."""
    mark = re.search(r"[*?[]", path)
    return mark.start() if mark else 0


def _shown(names: Iterable[str], path: str) -> list[str]:
    """The names without what Spark, Hive and the like take for no data below the part of ``path``
    that has no wildcard."""
    mark = _wild(path)
    outright = path[:mark].rpartition("/")[0] if mark else path

    def hidden(name: str) -> bool:
        parts = name[len(outright) :].split("/")
        return any(part.startswith((".", "_")) and "=" not in part for part in parts)

    return [name for name in names if not hidden(name)]


def _version(info: dict[str, Any]) -> str:
    known = next((info[key] for key in _VERSIONS if info.get(key) is not None), "")
    return str(known).strip('"')
