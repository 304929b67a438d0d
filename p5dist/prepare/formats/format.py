"""The contract of a source format."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import pyarrow as pa

from p5dist.errors import ConfigError
from p5dist.prepare.layout import FileRange, Layout, SourceFile
from p5dist.prepare.listing import Listed, list_files, once

_ROW_BYTES, _PACKED = 32, 4  # of a text row, and how much smaller compressed text is


class SourceFormat(ABC):
    """One format of raw files: all code that depends on the format.

    A job file names a format by its name in :data:`p5dist.config.registry.FORMATS` or as
    ``package.module:Class``. A format of your own needs :meth:`columns` and :meth:`read`: one task
    then reads each file as a whole. Text with one record a line is less work with
    :class:`.lines.LineFormat`, which cuts large files as well.

    Args:
        layout: the columns of the files that are read, and the role of each.
    """

    is_text: ClassVar[bool] = False
    """Whether the job file may give ``encoding``."""
    is_delimited: ClassVar[bool] = False
    """Whether the job file may give ``delimiter``, ``quote`` and, since the files need not name
    their columns, ``names``."""
    optional_columns: ClassVar[tuple[str, ...]] = ("timestamp", "rating", "event", "context")
    """Columns that a log of this format may have beside user and item."""
    is_sparse: ClassVar[bool] = False
    """Whether a record may lack columns, so that one file may lack a column that others have."""
    in_order_of_time: ClassVar[bool] = True
    """Whether the records of a log without times are in the order of time over all users."""
    has_lists: ClassVar[bool] = False
    """Whether columns may be lists of numbers, as vectors are."""
    describes: ClassVar[bool] = True
    """Whether the tables about items and users may have this format."""

    is_files: ClassVar[bool] = True
    """Whether a job names files; else :meth:`listed` says what there is to read."""
    connects: ClassVar[bool] = False
    """Whether the job file gives ``connection``."""

    malformed_example: str | None = None
    """The first malformed record, for messages."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @abstractmethod
    def columns(self, url: str) -> tuple[str, ...]:
        """Names of the columns in a file; no name if nothing is in the file.

        Raises:
            DataError: the file is of another format.
            pa.ArrowInvalid, OSError: the same, for the caller to explain.
        """

    @abstractmethod
    def read(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        """Tables of the records of a range in their order, each with the number of malformed
        records that were left out since the preceding table.

        A table has the names of the file, and at least the columns that ``part.file.wanted`` names,
        each of a type that :mod:`..column_types` allows for its role.

        Raises:
            DataError: the file is not of this format.
            pa.ArrowInvalid, OSError: the same, for the caller to explain.
        """

    def listed(self, patterns: Sequence[str], key: str) -> list[Listed]:
        """What ``files`` of the job names, in order.

        Args:
            key: of the job file, for messages.

        Raises:
            DataError: nothing is there.
        """
        return once(file for pattern in patterns for file in list_files(pattern, key))

    def remaining(self, listed: Sequence[Listed], taken: Sequence[str]) -> list[str]:
        """What of ``listed`` is new where the places ``taken`` were read before."""
        return [file.url for file in listed if file.url not in taken]

    def connection(self) -> str:
        """The connection, from the environment.

        Raises:
            ConfigError: the environment has none.
        """
        name = self.layout.connection or ""
        value = os.environ.get(name)
        if not value:
            raise ConfigError(
                "the environment variable with the connection is not set",
                where=f"{self.layout.section}.connection", value=name,
                rule="set on every machine of the run", fix=f"export {name}=…",
            )  # fmt: skip
        return value

    def inspect(self, file: SourceFile) -> SourceFile:
        """The file with the facts that are known without reading rows: columns, and in typed files
        the types of the columns and the sizes of the groups of rows. Raises as :meth:`columns`."""
        return replace(file, columns=self.columns(file.url))

    def note_malformed(self, record: str) -> None:
        """Keep the text of a malformed record, if it is the first one."""
        if self.malformed_example is None:
            self.malformed_example = record

    def edges(self, file: SourceFile, range_bytes: int) -> list[int]:
        """Where a file is cut into ranges of about ``range_bytes``, rising: from 0 to the end, in
        bytes or in the unit of ``start`` and ``stop`` that :meth:`read` uses."""
        return [0, file.size]

    def rows(self, file: SourceFile) -> int:
        """Records of a file; estimated from the size if the file does not state the number."""
        return file.size * (_PACKED if file.compressed else 1) // _ROW_BYTES
