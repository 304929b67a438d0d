"""Queries to a database, read as Arrow streams by ADBC drivers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from p5dist.environment.extras import need
from p5dist.environment.redact import redact_text
from p5dist.errors import ConfigError, DataError
from p5dist.prepare.formats.format import SourceFormat
from p5dist.prepare.layout import FileRange, SourceFile, bounded
from p5dist.prepare.listing import Listed

_DRIVERS = {
    "sqlite": "adbc_driver_sqlite.dbapi",
    "postgresql": "adbc_driver_postgresql.dbapi",
    "postgres": "adbc_driver_postgresql.dbapi",
}
_SAMPLE = 1000


class Sql(SourceFormat):
    """``files`` are queries; each is read by one task, in the order in which the database gives its
    rows. ``connection`` names the environment variable with the URL of the database:
    ``postgresql://user:password@host/name`` or ``sqlite:///path/of/file.db``.

    Several queries that divide the rows (``… WHERE id % 4 = 0``, …) are read at the same time.
    """

    is_files = False
    connects = True

    def listed(self, patterns: Sequence[str], key: str) -> list[Listed]:
        found = []
        for query in patterns:
            # The query is the job's own; what it may read is up to the user of the connection.
            with self._rows(f"SELECT COUNT(*) FROM ({query}) AS log", key) as rows:  # nosec B608
                found.append(Listed(query, int(rows.read_all().column(0)[0].as_py()), ""))
        return found

    def columns(self, url: str) -> tuple[str, ...]:
        return tuple(self._schema(url).names)

    def inspect(self, file: SourceFile) -> SourceFile:
        schema = self._schema(file.url)
        named = self.layout.columns.items()
        types = {ours: schema.field(name).type for ours, name in named if name in schema.names}
        return replace(file, columns=tuple(schema.names), types=types)

    def rows(self, file: SourceFile) -> int:
        return file.size

    def read(self, part: FileRange) -> Iterator[tuple[pa.Table, int]]:
        wanted = part.file.wanted(self.layout)
        with self._rows(part.file.url, self.layout.section) as rows:
            for table in bounded(rows):
                yield table.select(wanted), 0

    def _schema(self, query: str) -> pa.Schema:
        limited = f"SELECT * FROM ({query}) AS log LIMIT {_SAMPLE}"  # nosec B608
        with self._rows(limited, self.layout.section) as rows:
            return rows.schema

    @contextmanager
    def _rows(self, query: str, key: str) -> Iterator[pa.RecordBatchReader]:
        url = self.connection()
        scheme = url.partition("://")[0]
        if scheme not in _DRIVERS:
            raise ConfigError(
                "no driver for this database", where=f"{self.layout.section}.connection",
                value=f"{scheme}://…", rule=f"one of: {', '.join(_DRIVERS)}",
                fix="correct the environment variable",
            )  # fmt: skip
        driver = need(_DRIVERS[scheme], "sql", "format sql")
        uri = url.removeprefix("sqlite:///") if scheme == "sqlite" else url
        try:
            with closing(driver.connect(uri)) as database, closing(database.cursor()) as cursor:
                cursor.execute(query)
                yield cursor.fetch_record_batch()
        except (driver.Error, pa.ArrowException) as e:
            raise _explain(e, query, key) from None


def _explain(error: Any, query: str, key: str) -> DataError:
    text = redact_text((str(error).strip() or repr(error)).splitlines()[0])
    return DataError(
        "the database does not answer the query", where=key, value=f"{query}: {text}",
        rule="one SELECT without a semicolon; columns of one type each",
        fix="try the query with another client of the database; cast columns that have several "
        "types",
    )  # fmt: skip
