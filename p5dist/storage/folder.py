"""File systems by URL, and atomic files.

Principle: nothing half-written is ever read. A result exists once one small file exists (manifest,
marker, result.json), which is written last and removed first.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.fs as pafs

from p5dist.errors import RunFolderError, StorageError


def open_filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system for ``url`` and the path inside it.

    A path without a scheme is local and made absolute. ``s3://`` goes through s3fs with the
    standard chain of AWS for endpoint and credentials (see :mod:`p5dist.storage.s3`), every other
    scheme through fsspec.

    Raises:
        RunFolderError: no installed package opens the scheme, or the URL has no bucket.
    """
    if "://" not in url:
        return pafs.LocalFileSystem(), str(Path(url).expanduser().absolute())
    scheme, rest = url.split("://", 1)
    if scheme == "file":
        return pafs.LocalFileSystem(), rest
    if scheme in ("s3", "s3a"):
        return _open_s3(url, rest)
    import fsspec

    try:
        fs = fsspec.filesystem(scheme)
    except (ValueError, ImportError) as e:
        raise RunFolderError(
            f"no file system for '{scheme}://'",
            where=url,
            rule="a local path, or a URL that fsspec opens",
            fix=f"install the package that fsspec names: {e}",
        ) from e
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), rest


def _open_s3(url: str, path: str) -> tuple[pafs.FileSystem, str]:
    if not path or path.startswith("/"):
        raise RunFolderError("no bucket in the URL", where=url, rule="s3://BUCKET/KEY")
    from p5dist.storage.s3.filesystem import S3  # takes 0.5 s, so only if S3 is used
    from p5dist.storage.s3.handler import Handler

    return pafs.PyFileSystem(Handler(S3())), path


Buffer: TypeAlias = bytes | bytearray | memoryview | pa.Buffer


@dataclass(frozen=True)
class Folder:
    """A folder (or file) on any file system; ``folder / "a"`` is the folder (or file) ``a`` in it.

    On an object store a folder exists as long as it has an object, and every operation raises
    StorageError if the store denies access, fails or cannot be reached.
    """

    fs: pafs.FileSystem
    path: str

    @classmethod
    def open(cls, url: str) -> Folder:
        fs, path = open_filesystem(url)
        return cls(fs, path.rstrip("/"))

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.fs, f"{self.path}/{name}")

    def __str__(self) -> str:
        """The path; on an object store the URL."""
        return self.path if self.is_local else str(self.fs.handler.fs.unstrip_protocol(self.path))

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def above(self) -> Folder:
        """The folder that this one is in."""
        return Folder(self.fs, self.path.rsplit("/", 1)[0])

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def exists(self) -> bool:
        return bool(self.fs.get_file_info(self.path).type != pafs.FileType.NotFound)

    def make(self) -> Folder:
        self.fs.create_dir(self.path, recursive=True)
        return self

    def children(self) -> list[str]:
        """Names of files and folders directly below, sorted; empty if there is no folder."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def size(self) -> int | None:
        """Bytes of a file; None if there is no such file."""
        info = self.fs.get_file_info(self.path)
        return int(info.size) if info.type == pafs.FileType.File else None

    def sizes(self) -> dict[str, int]:
        """Bytes of the files directly below, by name."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return {i.base_name: i.size for i in infos if i.type == pafs.FileType.File}

    def remove(self) -> None:
        """Delete the file or the whole folder, if it exists."""
        kind = self.fs.get_file_info(self.path).type
        if kind == pafs.FileType.File:
            self.fs.delete_file(self.path)
        elif kind == pafs.FileType.Directory:
            self.fs.delete_dir(self.path)

    def read_bytes(self) -> bytes:
        """The whole file, as one writer wrote it; FileNotFoundError if it does not exist."""
        if not self.is_local:
            return bytes(self.fs.handler.fs.cat_file(self.path))
        with self.fs.open_input_stream(self.path, compression=None) as f:
            return bytes(f.read())

    def read_json(self) -> Any:
        """The value of a JSON file.

        Raises:
            StorageError: the file is not JSON.
        """
        data = self.read_bytes()
        try:
            return json.loads(data)
        except ValueError as e:
            raise StorageError(
                "a file is damaged", where=str(self), value=data[:100], rule=f"JSON: {e}",
                fix="restore the file; or run the stage of this folder again with --fresh",
            ) from e  # fmt: skip

    def write_bytes(self, data: Buffer, *, durable: bool = True) -> None:
        """Write the file atomically: on disk under a temporary name, synced, then renamed; on an
        object store as one put, or as a multipart upload. A reader sees the old file or the new
        file, never a part. The folder is synced too, so that the file is there after a power
        failure. Without ``durable`` nothing is synced: for intermediate files."""
        if self.is_local:
            self._write_local([data], durable=durable)
        else:
            self.fs.handler.fs.pipe_file(self.path, bytes(data))

    def write_chunks(self, chunks: Iterable[Buffer]) -> None:
        """:meth:`write_bytes` in chunks, for content that need not be in memory as a whole."""
        if self.is_local:
            self._write_local(chunks, durable=True)
            return
        with self.fs.open_output_stream(self.path) as f:
            for chunk in chunks:
                f.write(chunk)

    def _write_local(self, chunks: Iterable[Buffer], *, durable: bool) -> None:
        with self.new_file(durable=durable) as f:
            for chunk in chunks:
                f.write(chunk)

    @contextmanager
    def new_file(self, *, durable: bool) -> Iterator[BinaryIO]:
        """A local file to write to, which exists once the block ends (see :meth:`write_bytes`)."""
        target = Path(self.path)
        made = _make_folders(target.parent)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as f:
                yield f
                if durable:
                    f.flush()
                    os.fsync(f.fileno())
            temporary.replace(target)
            if durable:  # the name of a file, and of a new folder, is in the folder above it
                for folder in (target.parent, *(folder.parent for folder in made)):
                    _sync(folder)
        finally:
            temporary.unlink(missing_ok=True)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def write_json(self, value: Any) -> None:
        self.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_table(self, table: pa.Table, **options: Any) -> None:
        """Write one Parquet file atomically (see :meth:`write_bytes`)."""
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        self.write_bytes(sink.getvalue().to_pybytes())

    def read_table(self, columns: list[str] | None = None) -> pa.Table:
        import pyarrow.parquet as pq

        return pq.read_table(self.path, filesystem=self.fs, columns=columns)


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and the folders above it; returns the new ones."""
    new = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _sync(folder: Path) -> None:
    """Write the names of the files in a folder to the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
