"""The files of a raw table: columns, ranges that tasks read, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from p5dist.config.raw_files import AttributeTable, Source
from p5dist.config.registry import FORMATS
from p5dist.data import columns as c
from p5dist.errors import DataError
from p5dist.prepare.attribute_kinds.kind import kinds_of
from p5dist.prepare.column_types import Role

if TYPE_CHECKING:
    from p5dist.prepare.formats.format import SourceFormat

MAX_ROWS = 4 << 20
MAX_BYTES = 256 << 20
"""Approximate size of the largest table that a range is read in."""

_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


@dataclass(frozen=True)
class Layout:
    """How the files of one table are read."""

    format: str
    """Name of the source format."""
    names: tuple[str, ...] | None
    delimiter: str | None
    quote: str | None
    encoding: str
    columns: Mapping[str, str]
    """Our name → name in the files."""
    roles: Mapping[str, Role]
    """Our name → role of the column."""
    knobs: Mapping[str, str]
    """Our name → key of the job file that holds the name in the files."""
    section: str
    """Section of the job file."""
    time_unit: str = "s"
    pseudonyms: str | None = None
    """Environment variable with the key of the pseudonyms of users; None: ids as they are."""
    connection: str | None = None
    """Environment variable with the connection, see :attr:`.formats.format.SourceFormat.connects`.
    """
    id_types: Mapping[str, pa.DataType] = field(
        default_factory=lambda: {c.USER: pa.string(), c.ITEM: pa.string()}
    )
    """Of user and item once they are cleaned: int64 or string (``Inputs.id_types``)."""

    @classmethod
    def of_log(
        cls,
        source: Source,
        id_types: Mapping[str, pa.DataType] | None = None,
        *,
        section: str = "prepare.source",
        pseudonyms: str | None = None,
    ) -> Layout:
        """Of a log; ``id_types`` is needed to clean the rows that are read."""
        time: Role = "iso" if source.timestamp_unit == "iso" else "time"
        roles: dict[str, Role] = {
            c.USER: "id", c.ITEM: "id", c.TIMESTAMP: time, c.EVENT: "label", c.RATING: "number"
        }  # fmt: skip
        columns = {k: v for k in roles if (v := getattr(source.columns, k)) is not None}
        knobs = {k: f"{section}.columns.{k}" for k in columns}
        for name, attribute in kinds_of(source.columns.context).items():
            columns[ours := c.CONTEXT + name] = attribute.column or name
            roles[ours] = "label" if attribute.role == "labels" else attribute.role
            knobs[ours] = f"{section}.columns.context.{name}"
        types = {} if id_types is None else {"id_types": id_types}
        return cls(
            source.format, source.names, source.delimiter, source.quote, source.encoding,
            columns, roles, knobs, section, source.timestamp_unit, pseudonyms,
            source.connection, **types,
        )  # fmt: skip

    @classmethod
    def of_attributes(
        cls, table: AttributeTable, section: str, pseudonyms: str | None = None
    ) -> Layout:
        """Of a table about items or users; only users have ``pseudonyms``."""
        columns, knobs = {c.ID: table.id}, {c.ID: f"{section}.id"}
        roles: dict[str, Role] = {c.ID: "id", c.TITLE: "label"}
        if table.title is not None:
            columns[c.TITLE], knobs[c.TITLE] = table.title, f"{section}.title"
        for name, attribute in kinds_of(table.attributes).items():
            columns[ours := f"attribute.{name}"] = attribute.column or name
            roles[ours] = attribute.role
            knobs[ours] = f"{section}.attributes.{name}"
        return cls(
            table.format, table.names, table.delimiter, table.quote, table.encoding,
            columns, roles, knobs, section, pseudonyms=pseudonyms,
            connection=table.connection,
        )  # fmt: skip

    def without(self, names: Iterable[str]) -> Layout:
        """The same without some columns (our names)."""
        left_out = set(names)
        columns = {ours: name for ours, name in self.columns.items() if ours not in left_out}
        return replace(self, columns=columns)

    @property
    def source_format(self) -> SourceFormat:
        """The format that reads these files."""
        found: SourceFormat = FORMATS.find(self.format)(self)
        return found


@dataclass(frozen=True)
class SourceFile:
    """A file that exists and has the columns that are read."""

    url: str
    size: int
    columns: tuple[str, ...]
    """Empty if nothing is in the file."""
    partition: Mapping[str, str] = field(default_factory=dict)
    """Keys and values in the names of its folders: columns with one value."""
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    """Of a file with typed columns: our name → type."""
    groups: tuple[tuple[int, int], ...] = ()
    """Of a file in groups of rows: rows and bytes (of the columns that are read) of each group."""
    version: str = ""
    """As in :class:`.listing.Listed`."""
    snapshot: str = ""
    """As in :class:`.listing.Listed`."""

    @property
    def compressed(self) -> bool:
        return self.url.endswith(_COMPRESSED)

    def wanted(self, layout: Layout) -> list[str]:
        """Columns to read from the file itself, not from the names of its folders."""
        return [name for name in dict.fromkeys(layout.columns.values()) if name in self.columns]


def check_unique(file: SourceFile, layout: Layout) -> None:
    """Raise DataError if a column that is read is in the file twice."""
    for ours, theirs in layout.columns.items():
        if file.columns.count(theirs) > 1:
            raise DataError(
                f"column '{theirs}' is in the file {file.columns.count(theirs)} times",
                where=file.url, rule="the name of a column that is read occurs once",
                fix=f"rename the other columns, or correct {layout.knobs[ours]}",
            )  # fmt: skip


@dataclass(frozen=True)
class FileRange:
    """The records between two edges of a file, read by one task.

    The format of the file says what an edge is: a byte, or the number of a group of rows (see
    :meth:`.formats.format.SourceFormat.edges`).
    """

    file: SourceFile
    start: int
    stop: int
    part: int = c.TRAIN
    """Split code of the rows, for a given split."""

    @property
    def whole(self) -> bool:
        """Whether the range is the whole file, where edges are bytes."""
        return self.start == 0 and self.stop == self.file.size


def bounded(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Record batches put together to tables of about MAX_ROWS rows or MAX_BYTES bytes."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if waiting and (rows + len(batch) > MAX_ROWS or size + batch.nbytes > MAX_BYTES):
            yield pa.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows, size = rows + len(batch), size + batch.nbytes
    if waiting:
        yield pa.Table.from_batches(waiting)
