"""Raw files: which there are, what columns they have, and how they are cut into read units.

A *read unit* is what one task reads: a byte range of a file with one record a line, some row
groups of a Parquet file, or a whole file. Units are numbered in the order of the log.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from p5dist.config import RunConfig
from p5dist.config.prepare import GivenSplit, Prepare
from p5dist.errors import DataError, MissingColumnError
from p5dist.prepare.reading import Layout, SourceFile, Unit, column_names
from p5dist.storage import open_filesystem

UNIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Inputs:
    """All input files of a job, found and checked."""

    log: list[SourceFile]
    test: list[SourceFile]
    items: list[SourceFile]
    users: list[SourceFile]

    @classmethod
    def find(cls, prepare: Prepare) -> Inputs:
        """Raises MissingColumnError and DataError before any work is done."""
        layout = Layout.of_log(prepare.source)
        split = prepare.split
        return cls(
            log=find_files(prepare.source.files, layout),
            test=find_files(split.test, layout) if isinstance(split, GivenSplit) else [],
            **{
                side: find_files(table.files, Layout.of_attributes(table, f"prepare.{side}"))
                if (table := getattr(prepare, side)) is not None
                else []
                for side in ("items", "users")
            },
        )

    def fingerprint(self, job: RunConfig) -> str:
        """SHA-256 (16 hex digits) of the job's settings for this stage and of the files."""
        state = sha256(job.fingerprint("prepare").encode())
        for files in (self.log, self.test, self.items, self.users):
            state.update(b"|")
            for file in files:
                state.update(digest(file).encode())
        return state.hexdigest()[:16]


def find_files(files: str | tuple[str, ...], layout: Layout) -> list[SourceFile]:
    """Resolve paths, globs, folders, URLs and ``dataset:NAME/FILE``; check the columns of all.

    The order is that of the job file, names matched by one pattern being sorted.

    Raises:
        DataError: nothing is there, or a file cannot be read.
        MissingColumnError: a column that the job names is not in a file.
    """
    patterns = (files,) if isinstance(files, str) else files
    urls = dict.fromkeys(url for pattern in patterns for url in _expand(pattern, layout.section))
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda url: _inspect(url, layout), urls))


def plan_units(
    files: Iterable[SourceFile], layout: Layout, unit_bytes: int = UNIT_BYTES, *, test: bool = False
) -> list[Unit]:
    """Cut files into units of about ``unit_bytes``.

    A CSV file is cut only if it has no quote at all, since a quoted value may hold a line end;
    compressed files are never cut.
    """
    units: list[Unit] = []
    for file in files:
        if layout.format == "parquet":
            edges = _group_edges(file, unit_bytes)
        elif file.size <= unit_bytes or file.compressed or (
            layout.format == "csv" and _has_quote(file)
        ):  # fmt: skip
            edges = [0, file.size]
        else:
            edges = [*range(0, file.size, unit_bytes), file.size]
        units += [Unit(file, a, b, test) for a, b in pairwise(edges)]
    return units


def digest(file: SourceFile) -> str:
    """SHA-256 (hex) of name, size and content; of a remote file name, size and time of change."""
    fs, path = open_filesystem(file.url)
    state = sha256(f"{path.rsplit('/', 1)[-1]}\n{file.size}\n".encode())
    if isinstance(fs, pafs.LocalFileSystem):
        with fs.open_input_stream(path, compression=None) as stream:
            while block := stream.read(1 << 22):
                state.update(block)
    else:
        state.update(str(fs.get_file_info(path).mtime_ns).encode())
    return state.hexdigest()


def _expand(pattern: str, section: str) -> list[str]:
    if pattern.startswith("dataset:"):
        from p5dist.datasets import resolve

        pattern = resolve(pattern)
    fs, path = open_filesystem(pattern)
    if any(mark in path for mark in "*?["):
        if isinstance(fs, pafs.LocalFileSystem):
            found = glob.glob(path, recursive=True)  # noqa: PTH207
        else:
            found = fs.handler.fs.glob(path)
    else:
        found = [path]
    infos = fs.get_file_info(sorted(found))
    files = [info.path for info in infos if info.type == pafs.FileType.File]
    for info in infos:
        if info.type == pafs.FileType.Directory and len(infos) == 1:
            inside = fs.get_file_info(pafs.FileSelector(info.path))
            files = sorted(
                i.path for i in inside if i.is_file and not i.base_name.startswith((".", "_"))
            )
    if not files:
        raise DataError(
            "no such file", where=f"{section}.files", value=pattern,
            rule="a path, a glob, a folder, a URL, or dataset:NAME/FILE",
            fix=f"correct {section}.files; relative paths start at the current folder",
        )  # fmt: skip
    scheme = pattern.split("://", 1)[0] + "://" if "://" in pattern else ""
    return [scheme + file for file in files]


def _inspect(url: str, layout: Layout) -> SourceFile:
    fs, path = open_filesystem(url)
    size = int(fs.get_file_info(path).size)
    if not size and layout.format != "parquet":
        return SourceFile(url, size, tuple(layout.columns.values()))
    file = SourceFile(url, size, ())
    try:
        file = SourceFile(url, size, tuple(column_names(file, layout)))
    except (pa.ArrowInvalid, OSError) as e:
        raise DataError(
            f"not a readable {layout.format} file", where=url, value=str(e),
            fix=f"correct {layout.section}.format or the file",
        ) from e  # fmt: skip
    for ours, theirs in layout.columns.items():
        if theirs not in file.columns:
            raise MissingColumnError(
                f"column '{theirs}' is not in the file", where=url,
                rule=f"the columns there are: {', '.join(file.columns) or 'none'}",
                fix=f"correct {layout.knobs[ours]}"
                + (f", or give {layout.section}.names if the file has no header line"
                   if layout.format in ("csv", "tsv") and layout.names is None else ""),
            )  # fmt: skip
    return file


def _group_edges(file: SourceFile, unit_bytes: int) -> list[int]:
    fs, path = open_filesystem(file.url)
    meta = pq.read_metadata(path, filesystem=fs)
    edges, size = [0], 0
    for i in range(meta.num_row_groups):
        size += meta.row_group(i).total_byte_size
        if size >= unit_bytes or i == meta.num_row_groups - 1:
            edges.append(i + 1)
            size = 0
    return edges


def _has_quote(file: SourceFile) -> bool:
    """Whether a quote is below the first line (a header is never cut)."""
    fs, path = open_filesystem(file.url)
    with fs.open_input_stream(path) as stream:
        block = stream.read(1 << 22).partition(b"\n")[2]
        while block:
            if b'"' in block:
                return True
            block = stream.read(1 << 22)
    return False
