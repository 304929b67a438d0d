"""Raw files: which there are, what columns they have, and how they are cut into ranges.

A *range* is what one task reads: some bytes of a file with one record a line, some row groups of a
Parquet file, or a whole file. Ranges are numbered in the order of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from p5dist.config.prepare import Prepare
from p5dist.config.splits import GivenSplit
from p5dist.data import columns as c
from p5dist.errors import DataError, MissingColumnError
from p5dist.prepare.column_types import check_same, check_type, id_type
from p5dist.prepare.layout import FileRange, Layout, SourceFile, check_unique
from p5dist.prepare.listing import Listed, place_of
from p5dist.prepare.pseudonyms import check_of
from p5dist.storage import open_filesystem

RANGE_BYTES = 64 << 20

_KEYS = {
    "log": "prepare.source.files",
    "validation": "prepare.split.validation",
    "test": "prepare.split.test",
}
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
        pseudonyms = prepare.privacy.pseudonyms
        layout = Layout.of_log(prepare.source, pseudonyms=pseudonyms)
        check_of(pseudonyms)  # an error now, not in a task
        split = prepare.split
        parts = {"log": prepare.source.files}
        if isinstance(split, GivenSplit):
            parts |= {"validation": split.validation or (), "test": split.test}
        found = cls(
            **_find_parts(parts, layout),
            **{
                side: find_files(table.files, Layout.of_attributes(table, f"prepare.{side}"))
                if (table := getattr(prepare, side)) is not None
                else []
                for side in ("items", "users")
            },
        )
        if layout.source_format.is_files:
            _check_apart({key: getattr(found, part) for part, key in _KEYS.items()})
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


def find_files(
    files: str | tuple[str, ...], layout: Layout, key: str | None = None
) -> list[SourceFile]:
    """Resolve paths, globs, folders, URLs and ``dataset:NAME/FILE``; check the columns of all.

    The order is that of the job file; the files of one entry are sorted by their paths. What is
    hidden or begins with an underscore is left out, unless it is named outright.

    Args:
        key: of the job file that names the files; left out: ``files`` of the layout's section.

    Raises:
        DataError: nothing is there, a file cannot be read, or a column has a type that does not
            fit.
        MissingColumnError: a column that the job names is not in a file.
    """
    found = _inspected(files, layout, key or f"{layout.section}.files")
    return _with_columns(found, layout)


def _find_parts(
    parts: Mapping[str, str | tuple[str, ...]], layout: Layout
) -> dict[str, list[SourceFile]]:
    """:func:`find_files` of the log and of the validation and test files of a given split. Where
    records may lack columns, a column that is in any file is in all."""
    found = {
        part: _inspected(files, layout, _KEYS[part]) if files else []
        for part, files in parts.items()
    }
    every = iter(_with_columns([file for files in found.values() for file in files], layout))
    none: dict[str, list[SourceFile]] = {part: [] for part in _KEYS}
    return none | {part: [next(every) for _ in files] for part, files in found.items()}


def _inspected(files: str | tuple[str, ...], layout: Layout, key: str) -> list[SourceFile]:
    patterns = (files,) if isinstance(files, str) else files
    listed = layout.source_format.listed(patterns, key)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda file: _inspect(file, layout), listed))
    if not any(file.columns for file in found):
        raise DataError(
            "the file is empty" if len(found) == 1 else "all files are empty",
            where=found[0].url, fix=f"correct {key}",
        )  # fmt: skip
    return found


def cut_files(
    files: Iterable[SourceFile],
    layout: Layout,
    range_bytes: int = RANGE_BYTES,
    *,
    part: int = c.TRAIN,
) -> list[FileRange]:
    """Cut files into ranges of about ``range_bytes``; an empty file has none.

    A file that its format cannot cut is one range, read by one task, table after table.

    Args:
        part: split code of the rows, for a given split.
    """
    read_by, ranges = layout.source_format, list[FileRange]()
    for file in files:
        if file.columns:
            edges = read_by.edges(file, range_bytes)
            bare = replace(file, groups=())
            ranges += [FileRange(bare, a, b, part) for a, b in pairwise(edges)]
    return ranges


def estimate_rows(files: Iterable[SourceFile], layout: Layout) -> int:
    """Rows of the files: exact where the format knows, else a guess from the size."""
    read_by = layout.source_format
    return sum(read_by.rows(file) for file in files)


def digest(file: SourceFile, *, is_file: bool = True) -> str:
    """SHA-256 (hex) of name, size and content; of a remote file name, size and version; of what is
    no file, place and size."""
    if not is_file:
        return sha256(f"{file.url}\n{file.size}\n".encode()).hexdigest()
    fs, path = open_filesystem(file.url)
    keys = "".join(f"{key}={value}/" for key, value in file.partition.items())
    state = sha256(f"{keys}{path.rsplit('/', 1)[-1]}\n{file.size}\n".encode())
    if isinstance(fs, pafs.LocalFileSystem):
        with fs.open_input_stream(path, compression=None) as stream:
            while block := stream.read(1 << 22):
                state.update(block)
    else:
        state.update(file.version.encode())
    return state.hexdigest()


def _check_apart(parts: Mapping[str, list[SourceFile]]) -> None:
    """Raise DataError if a file is in two of the parts, by key of the job file."""
    seen: dict[str, str] = {}
    for key, files in parts.items():
        for file in files:
            other = seen.setdefault(place_of(file.url), key)
            if other != key:
                raise DataError(
                    f"a file is in {other} and in {key}", where=file.url,
                    rule="an interaction belongs to one part of a given split",
                    fix=f"name the file in one of them only: a glob in {other} can match it",
                )  # fmt: skip


def partition_of(path: str) -> dict[str, str]:
    """Keys and values of folders that are named ``key=value``."""
    parts = [name.partition("=") for name in path.split("/")[:-1]]
    values = {unquote(key): unquote(value) for key, equals, value in parts if key and equals}
    return {key: "" if value == _HIVE_NULL else value for key, value in values.items()}


def _inspect(listed: Listed, layout: Layout) -> SourceFile:
    url, read_by = listed.url, layout.source_format
    partition = partition_of(open_filesystem(url)[1]) if read_by.is_files else {}
    file = SourceFile(
        url, listed.size, (), partition, version=listed.version, snapshot=listed.snapshot
    )
    try:
        file = read_by.inspect(file)
    except (pa.ArrowInvalid, OSError) as e:
        raise DataError(
            f"not a readable {layout.format} file", where=url, value=str(e),
            fix=f"correct {layout.section}.format or the file",
        ) from e  # fmt: skip
    for ours, type_ in file.types.items():
        check_type(type_, layout.roles[ours], layout.columns[ours], url, layout.knobs[ours])
    if layout.pseudonyms is not None and c.USER in file.types:
        return replace(file, types={**file.types, c.USER: pa.string()})
    return file


def _with_columns(files: list[SourceFile], layout: Layout) -> list[SourceFile]:
    """The files, each of which has the columns that are read: where records may lack columns, the
    columns that another file has.

    Raises:
        MissingColumnError: a column that the job names is missing.
    """
    if layout.source_format.is_sparse:
        named = {name for file in files for name in file.columns}
        more = [name for name in dict.fromkeys(layout.columns.values()) if name in named]
        files = [
            replace(file, columns=tuple(dict.fromkeys((*file.columns, *more))))
            if file.columns else file
            for file in files
        ]  # fmt: skip
    for file in files:
        if file.columns:
            _check_columns(file, layout)
    return files


def _check_columns(file: SourceFile, layout: Layout) -> None:
    check_unique(file, layout)
    read_by, known = layout.source_format, (*file.columns, *file.partition)
    for ours, theirs in layout.columns.items():
        if theirs in known:
            continue
        place = "the first lines of any file" if read_by.is_sparse else "the file"
        fix = f"correct {layout.knobs[ours]}"
        if read_by.is_delimited and layout.names is None:
            fix += (
                f", or give {layout.section}.names if the file has no header line, or "
                f"{layout.section}.delimiter"
            )
        raise MissingColumnError(
            f"column '{theirs}' is not in {place}", where=file.url,
            rule=f"the columns there are: {', '.join(map(_name, known))}", fix=fix,
        )  # fmt: skip


def _name(column: str) -> str:
    """The name of a column, in quotes where its edges would not be seen."""
    return column if column and column == column.strip() else repr(column)
