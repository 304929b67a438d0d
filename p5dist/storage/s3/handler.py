"""S3 as a pyarrow file system: folders need not be made, and an operation needs few requests."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from p5dist.storage.s3.filesystem import S3, Upload

_STREAM_AHEAD_BYTES = 8 << 20
_RANDOM_AHEAD_BYTES = 1 << 20  # read beyond a range, so that one request gets adjacent columns


class Handler(pafs.FSSpecHandler):  # type: ignore[misc]
    """Handler of ``pyarrow.fs.PyFileSystem``."""

    fs: S3

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        if len(paths) == 1:
            return [self._info(paths[0])]
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self._info, paths))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        base = selector.base_dir.strip("/")
        if selector.recursive:
            found: Iterable[dict[str, Any]] = self.fs.find(
                base, withdirs=True, detail=True
            ).values()
        else:
            found = self.fs.list_folder(base)
        below = {name: info for info in found if (name := info["name"].rstrip("/")) != base}
        if not below:
            kind = self._info(base).type
            if kind == pafs.FileType.File:
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", f"s3://{base}")
            if kind == pafs.FileType.NotFound and not selector.allow_not_found:
                raise FileNotFoundError(errno.ENOENT, "no such folder", f"s3://{base}")
        return [_file_info(name, info) for name, info in below.items()]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Does nothing: a folder exists as soon as it has an object."""

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self._open(path, _STREAM_AHEAD_BYTES)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self._open(path, _RANDOM_AHEAD_BYTES)

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(Upload(self.fs, path), mode="w")

    def _open(self, path: str, ahead: int) -> pa.NativeFile:
        try:
            file = self.fs.open(path, "rb", block_size=ahead)
            found = file.details["type"] == "file"
        except FileNotFoundError:
            found = False
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no such object", f"s3://{path}")
        return pa.PythonFile(file, mode="r")

    def _info(self, path: str) -> pafs.FileInfo:
        try:
            return _file_info(path, self.fs.info(path))
        except FileNotFoundError:
            return pafs.FileInfo(path, pafs.FileType.NotFound)


def _file_info(path: str, info: dict[str, Any]) -> pafs.FileInfo:
    # Some programs make a folder by an empty object "folder/".
    if info["type"] == "directory" or info["name"].endswith("/"):
        return pafs.FileInfo(path, pafs.FileType.Directory)
    return pafs.FileInfo(path, pafs.FileType.File, size=info["size"], mtime=info["LastModified"])
