"""The parts of the lists on disk: one file for each portion, whole or not there, so that an
interrupted run goes on where it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.storage import Folder

SCRATCH = "scratch"
_KEY, _PORTIONS = "key.json", "portions.json"
_COUNTS = b"p5dist.counts"
_FILES_AT_ONCE = 16


@dataclass(frozen=True)
class Parts:
    """The files ``part-<portion>.parquet`` of a folder. While they are written, ``scratch/`` has
    ``key.json``, which names all that decides the lists, and ``portions.json``, how many there
    will be."""

    folder: Folder

    @property
    def scratch(self) -> Folder:
        """For files that the stage needs while it runs."""
        return self.folder / SCRATCH

    def claim(self, key: dict[str, Any]) -> bool:
        """Keep the files of an interrupted run with the same ``key``, else remove all. Returns
        whether files were kept."""
        file = self.scratch / _KEY
        if file.exists() and file.read_json() == key:
            return True
        file.remove()
        self.folder.remove()
        self.folder.make()
        file.write_json(key)
        return False

    def expect(self, portions: int) -> None:
        """Note how many parts there will be."""
        (self.scratch / _PORTIONS).write_json(portions)

    def progress(self) -> tuple[int, int] | None:
        """Parts that are there and parts that there will be; None before the first."""
        file = self.scratch / _PORTIONS
        return (len(self.done()), int(file.read_json())) if file.exists() else None

    def done(self) -> set[int]:
        """Numbers of the portions whose part is there."""
        found = (re.fullmatch(r"part-(\d+)\.parquet", name) for name in self.folder.children())
        return {int(match[1]) for match in found if match}

    def write(self, number: int, table: pa.Table, counts: Mapping[str, float]) -> None:
        """Write a part.

        Args:
            counts: what is summed over all parts.
        """
        about = {**(table.schema.metadata or {}), _COUNTS: json.dumps(counts)}
        self._file(number).write_table(table.replace_schema_metadata(about))

    def totals(self) -> dict[str, Any]:
        """``rows``, and the sums of the counts of all parts."""
        total: dict[str, Any] = {"rows": 0}
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            for about in pool.map(self._about, sorted(self.done())):
                total["rows"] += about.num_rows
                for name, number in json.loads(about.metadata[_COUNTS]).items():
                    total[name] = total.get(name, 0) + number
        return total

    def _about(self, number: int) -> pq.FileMetaData:
        file = self._file(number)
        with file.fs.open_input_file(file.path) as opened:
            return pq.read_metadata(opened)

    def _file(self, number: int) -> Folder:
        return self.folder / f"part-{number:05d}.parquet"
