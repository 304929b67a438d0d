"""Intermediate files of the stage, under prepare/scratch/ until the manifest is written.

They make the stage independent of memory and resumable: an exchange through files needs no more
memory for more rows and survives the loss of a node, and a task with a finished result is not run
again. A file is written under a temporary name and renamed, so that it is whole or does not exist.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist.data.jagged import Array
from p5dist.storage import Folder

_KEY = "key.json"


@dataclass(frozen=True)
class Scratch:
    """A folder of tables and arrays by name.

    Args:
        compressed: tables take about half of the bytes, and twice the time.
    """

    folder: Folder
    compressed: bool = False

    def __truediv__(self, name: str) -> Scratch:
        return Scratch(self.folder / name, self.compressed)

    def claim(self, key: str) -> bool:
        """Keep the files of an interrupted run with the same ``key``, remove all others. Returns
        whether files were kept."""
        file = self.folder / _KEY
        if file.exists() and file.read_json() == key:
            return True
        file.remove()
        self.folder.remove()
        file.write_json(key)
        return False

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def write_batches(self, name: str, schema: pa.Schema, batches: Iterable[pa.Table]) -> None:
        """An Arrow IPC file with one record batch for each of ``batches``."""
        if self.folder.is_local:
            with (self.folder / name).new_file(durable=False) as file:
                self._write(file, schema, batches)
        else:
            sink = pa.BufferOutputStream()
            self._write(sink, schema, batches)
            (self.folder / name).write_bytes(sink.getvalue(), durable=False)

    def _write(self, sink: Any, schema: pa.Schema, batches: Iterable[pa.Table]) -> None:
        options = pa.ipc.IpcWriteOptions(compression="lz4" if self.compressed else None)
        with pa.ipc.new_file(sink, schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch.combine_chunks().to_batches()[0] if len(batch) else
                                   pa.RecordBatch.from_pylist([], schema))  # fmt: skip

    def write_table(self, name: str, table: pa.Table) -> None:
        self.write_batches(name, table.schema, [table])

    @contextmanager
    def open(self, name: str) -> Iterator[pa.ipc.RecordBatchFileReader]:
        """The record batches of a file, each read when it is asked for."""
        with self._source(name) as source, pa.ipc.open_file(source) as reader:
            yield reader

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        with self._source(name) as source:
            fields = None
            if columns is not None:
                with pa.ipc.open_file(source) as reader:
                    names = reader.schema.names
                fields = [names.index(column) for column in columns]
            options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
            with pa.ipc.open_file(source, options=options) as reader:
                return reader.read_all()

    def read_column(self, name: str) -> pa.Array:
        """The first column of a file."""
        column = self.read_table(name).column(0)
        return column.chunk(0) if column.num_chunks else pa.array([], column.type)

    def _source(self, name: str) -> pa.NativeFile:
        file = self.folder / name
        return pa.memory_map(file.path) if file.is_local else file.fs.open_input_file(file.path)

    def write_array(self, name: str, values: Array) -> None:
        sink = io.BytesIO()
        np.save(sink, values, allow_pickle=False)
        (self.folder / name).write_bytes(sink.getbuffer(), durable=False)

    def read_array(self, name: str) -> Array:
        array: Array = np.load(io.BytesIO((self.folder / name).read_bytes()), allow_pickle=False)
        return array

    def write_json(self, name: str, value: Any) -> None:
        (self.folder / name).write_bytes(json.dumps(value).encode(), durable=False)

    def read_json(self, name: str) -> Any:
        return (self.folder / name).read_json()
