"""Arrays in .npy files, mapped instead of read; of files on an object store a copy is mapped."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p5dist.storage.folder import Folder

_OPEN = 8


class LocalCopies:
    """Local copies of files on an object store, for as long as this object lives."""

    def __getstate__(self) -> dict[str, object]:
        return {}  # every process has copies of its own

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="p5dist-")

    def path(self, file: Folder) -> str:
        """Path of a file, or of its copy."""
        if file.is_local:
            return file.path
        copy = Path(self._folder.name) / file.name
        if not copy.exists():
            part = copy.with_suffix(".part")
            with file.fs.open_input_stream(file.path) as source, part.open("wb") as target:
                while data := source.read(1 << 24):
                    target.write(data)
            part.replace(copy)
        return str(copy)

    def mapped(self, file: Folder) -> npt.NDArray[Any]:
        """The array in a file. The last _OPEN arrays stay mapped, since opening a file takes as
        long as reading a hundred rows of it."""
        return self._load(self.path(file))

    @cached_property
    def _load(self) -> Callable[[str], npt.NDArray[Any]]:
        """The array in the file of a path; may be called from several threads."""
        return lru_cache(_OPEN)(partial(np.load, mmap_mode="r", allow_pickle=False))


def write_array(file: Folder, values: npt.NDArray[Any]) -> None:
    """Write a .npy file atomically."""
    write_joined(file, [values], len(values), values.dtype, values.shape[1:])


def write_joined(
    file: Folder,
    parts: Iterable[npt.NDArray[Any]],
    rows: int,
    dtype: npt.DTypeLike,
    row_shape: tuple[int, ...] = (),
) -> None:
    """Write one .npy file of ``rows`` rows in parts, of which one at a time is in memory."""
    header = io.BytesIO()
    kind = np.dtype(dtype)
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False,
         "shape": (rows, *row_shape)},
    )  # fmt: skip

    def chunks() -> Iterator[bytes | memoryview]:
        yield header.getvalue()
        for part in parts:
            flat = np.ascontiguousarray(part, dtype=kind).reshape(-1)
            yield flat.view(np.uint8).data

    file.write_chunks(chunks())
