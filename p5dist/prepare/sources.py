"""Raw files: which there are, what columns they have, and how they are cut into read units.

A *read unit* is what one task reads: a byte range of a file with one record a line, some row
groups of a Parquet file, or a whole file. Units are numbered in the order of the log.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from p5dist.config import RunConfig
from p5dist.config.prepare import GivenSplit, Prepare
from p5dist.data import columns as c
from p5dist.errors import DataError, MissingColumnError
from p5dist.prepare.column_types import check_same, check_type, id_type
from p5dist.prepare.layout import MAX_ROWS, Layout, SourceFile, Unit
from p5dist.prepare.lines import column_names
from p5dist.storage import open_filesystem

UNIT_BYTES = 64 << 20
_ROW_BYTES, _PACKED = 32, 4  # of a text row, and how much smaller compressed text is

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Inputs:
    """All input files of a job, found and checked."""

    log: list[SourceFile]
    validation: list[SourceFile]
    test: list[SourceFile]
    items: list[SourceFile]
    users: list[SourceFile]

    @classmethod
    def find(cls, prepare: Prepare) -> Inputs:
        """Raises MissingColumnError and DataError before any work is done."""
        layout = Layout.of_log(prepare.source)
        split = prepare.split
        found = cls(
            log=find_files(prepare.source.files, layout),
            **{
                part: find_files(files, layout)
                if isinstance(split, GivenSplit) and (files := getattr(split, part)) is not None
                else []
                for part in ("validation", "test")
            },
            **{
                side: find_files(table.files, Layout.of_attributes(table, f"prepare.{side}"))
                if (table := getattr(prepare, side)) is not None
                else []
                for side in ("items", "users")
            },
        )
        for ours, theirs in layout.columns.items():
            check_same(
                ((f.url, f.types[ours]) for f in found.rows if ours in f.types),
                theirs, layout.knobs[ours],
            )  # fmt: skip
        return found

    @property
    def rows(self) -> list[SourceFile]:
        """All files of interactions."""
        return [*self.log, *self.validation, *self.test]

    @property
    def id_types(self) -> dict[str, pa.DataType]:
        """Type of user and item ids once they are cleaned: int64 where every file of the log has
        integers that fit, else string."""
        files = [file for file in self.rows if file.columns]
        return {
            side: id_type(file.types.get(side, pa.string()) for file in files)
            for side in (c.USER, c.ITEM)
        }

    def fingerprint(self, job: RunConfig) -> str:
        """SHA-256 (16 hex digits) of the job's settings for this stage and of the files."""
        state = sha256(job.fingerprint("prepare").encode())
        for files in (self.log, self.validation, self.test, self.items, self.users):
            state.update(b"|")
            for file in files:
                state.update(digest(file).encode())
        return state.hexdigest()[:16]


def find_files(files: str | tuple[str, ...], layout: Layout) -> list[SourceFile]:
    """Resolve paths, globs, folders, URLs and ``dataset:NAME/FILE``; check the columns of all.

    The order is that of the job file; the files of one entry are sorted by their paths. What is
    hidden or begins with an underscore is left out, unless it is named outright.

    Raises:
        DataError: nothing is there, a file cannot be read, or a column has a type that does not
            fit.
        MissingColumnError: a column that the job names is not in a file.
    """
    patterns = (files,) if isinstance(files, str) else files
    urls = dict.fromkeys(url for pattern in patterns for url in _expand(pattern, layout.section))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda url: _inspect(url, layout), urls))
    if not any(file.columns for file in found):
        raise DataError(
            "the file is empty" if len(found) == 1 else "all files are empty",
            where=found[0].url, fix=f"correct {layout.section}.files",
        )  # fmt: skip
    return found


def plan_units(
    files: Iterable[SourceFile],
    layout: Layout,
    unit_bytes: int = UNIT_BYTES,
    *,
    part: int = c.TRAIN,
) -> list[Unit]:
    """Cut files into units of about ``unit_bytes``; empty files have none.

    A CSV file is cut only if it has no quote at all, since a quoted value may hold a line end;
    compressed files are never cut. Such a file is one unit, read by one task, table after table.
    """
    units: list[Unit] = []
    for file in files:
        if not file.columns:
            continue
        if layout.format == "parquet":
            edges = _group_edges(file, unit_bytes)
        elif file.size <= unit_bytes or file.compressed or (
            layout.format == "csv" and _has_quote(file)
        ):  # fmt: skip
            edges = [0, file.size]
        else:
            edges = [*range(0, file.size, unit_bytes), file.size]
        units += [Unit(replace(file, groups=()), a, b, part) for a, b in pairwise(edges)]
    return units


def estimate_rows(files: Iterable[SourceFile], layout: Layout) -> int:
    """Rows of the files: exact for Parquet, of text a guess from its size."""
    if layout.format == "parquet":
        return sum(rows for file in files for rows, _ in file.groups)
    return sum(file.size * (_PACKED if file.compressed else 1) // _ROW_BYTES for file in files)


def last_change(file: SourceFile) -> tuple[int, int | None]:
    """Size and time of the last change, by which an interrupted run knows its input again."""
    fs, path = open_filesystem(file.url)
    return file.size, fs.get_file_info(path).mtime_ns


def digest(file: SourceFile) -> str:
    """SHA-256 (hex) of name, size and content; of a remote file name, size and time of change."""
    fs, path = open_filesystem(file.url)
    keys = "".join(f"{key}={value}/" for key, value in file.partition.items())
    state = sha256(f"{keys}{path.rsplit('/', 1)[-1]}\n{file.size}\n".encode())
    if isinstance(fs, pafs.LocalFileSystem):
        with fs.open_input_stream(path, compression=None) as stream:
            while block := stream.read(1 << 22):
                state.update(block)
    else:
        state.update(str(fs.get_file_info(path).mtime_ns).encode())
    return state.hexdigest()


def _expand(pattern: str, section: str) -> list[str]:
    if pattern.startswith("dataset:"):
        from p5dist.datasets.public import resolve

        pattern = resolve(pattern)
    fs, path = open_filesystem(pattern)
    mark = re.search(r"[*?[]", path)
    if mark:
        if isinstance(fs, pafs.LocalFileSystem):
            found = glob.glob(path, recursive=True)  # noqa: PTH207
        else:
            found = fs.handler.fs.glob(path)
        outright = path[: mark.start()].rpartition("/")[0]
        found = [place for place in found if not _is_hidden(place, outright)]
    else:
        found = [path]
    files: set[str] = set()
    for info in fs.get_file_info(found):
        if info.is_file:
            files.add(info.path)
        elif info.type == pafs.FileType.Directory:
            files.update(_files_below(fs, info.path))
    if not files:
        raise DataError(
            "no such file", where=f"{section}.files", value=pattern,
            rule="a path, a glob, a folder, a URL, or dataset:NAME/FILE",
            fix=f"correct {section}.files; relative paths start at the current folder",
        )  # fmt: skip
    scheme = pattern.split("://", 1)[0] + "://" if "://" in pattern else ""
    return [scheme + file for file in sorted(files)]


def _files_below(fs: pafs.FileSystem, folder: str) -> list[str]:
    infos = fs.get_file_info(pafs.FileSelector(folder, recursive=True))
    return [info.path for info in infos if info.is_file and not _is_hidden(info.path, folder)]


def _is_hidden(path: str, folder: str) -> bool:
    """Whether Spark, Hive and the like take what ``path`` names below ``folder`` for no data."""
    names = path[len(folder) :].split("/")
    return any(name.startswith((".", "_")) and "=" not in name for name in names)


def _partition(path: str) -> dict[str, str]:
    """Keys and values of folders that are named ``key=value``."""
    parts = [name.partition("=") for name in path.split("/")[:-1]]
    values = {unquote(key): unquote(value) for key, equals, value in parts if key and equals}
    return {key: "" if value == _HIVE_NULL else value for key, value in values.items()}


def _inspect(url: str, layout: Layout) -> SourceFile:
    fs, path = open_filesystem(url)
    file = SourceFile(url, int(fs.get_file_info(path).size), (), _partition(path))
    try:
        if layout.format == "parquet":
            file = _inspect_parquet(file, layout)
        else:
            file = replace(file, columns=column_names(url, layout))
    except (pa.ArrowInvalid, OSError) as e:
        raise DataError(
            f"not a readable {layout.format} file", where=url, value=str(e),
            fix=f"correct {layout.section}.format or the file",
        ) from e  # fmt: skip
    known = {*file.columns, *file.partition}
    for ours, theirs in layout.columns.items():
        if file.columns and theirs not in known:
            raise MissingColumnError(
                f"column '{theirs}' is not in the file", where=url,
                rule=f"the columns there are: {', '.join((*file.columns, *file.partition))}",
                fix=f"correct {layout.knobs[ours]}"
                + (f", or give {layout.section}.names if the file has no header line"
                   if layout.format in ("csv", "tsv") and layout.names is None else ""),
            )  # fmt: skip
    return file


def _inspect_parquet(file: SourceFile, layout: Layout) -> SourceFile:
    fs, path = open_filesystem(file.url)
    with pq.ParquetFile(path, filesystem=fs) as opened:
        meta, schema = opened.metadata, opened.schema_arrow
    file = replace(file, columns=tuple(schema.names))
    wanted = file.wanted(layout)
    places = [
        i for i in range(meta.num_columns)
        if meta.schema.column(i).path.split(".", 1)[0] in wanted
    ]  # fmt: skip
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    types = {
        ours: schema.field(theirs).type
        for ours, theirs in layout.columns.items() if theirs in wanted
    }  # fmt: skip
    for ours, type_ in types.items():
        check_type(type_, layout.roles[ours], layout.columns[ours], file.url, layout.knobs[ours])
    return replace(
        file, types=types, groups=tuple(
            (g.num_rows, sum(g.column(i).total_uncompressed_size for i in places)) for g in groups
        ),
    )  # fmt: skip


def _group_edges(file: SourceFile, unit_bytes: int) -> list[int]:
    edges, rows, size = [0], 0, 0
    for i, (more_rows, more_bytes) in enumerate(file.groups):
        rows, size = rows + more_rows, size + more_bytes
        if size >= unit_bytes or rows >= MAX_ROWS or i == len(file.groups) - 1:
            edges.append(i + 1)
            rows = size = 0
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
