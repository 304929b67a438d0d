"""The tensor file of one worker: safetensors, with an index beside it.

``<attempt>-<rank>.safetensors`` holds the worker's pieces one after the other, under the key
``name@offset,offset``. ``<attempt>-<rank>.json`` is written afterwards and has for every piece its
name, its position in the whole tensor and in the file, and the CRC-32 of every block, so that a
worker of any other sharding plan can read just the bytes that it needs, and check them.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from p5dist.checkpoint.pieces import Piece, as_bytes
from p5dist.errors import CheckpointError
from p5dist.storage import Folder

BLOCK = 4 << 20
"""Bytes per checksum."""
_AT_ONCE = 16  # blocks read at once

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_OF_NAME = {name: dtype for dtype, name in _DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A saved piece."""

    name: str
    dtype: str
    """Name of the type in safetensors."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    begin: int
    """First byte in the file."""
    crc32: tuple[int, ...]
    """One checksum per block of BLOCK bytes; the last block may be shorter."""

    @property
    def torch_dtype(self) -> torch.dtype:
        return _OF_NAME[self.dtype]


def write_shard(folder: Folder, name: str, pieces: list[Piece]) -> None:
    """Write ``<name>.safetensors``, then ``<name>.json``.

    Args:
        pieces: contiguous, on CPU; they must not change during the call.
    """
    text, places = safetensors_header(
        {_key(piece): (piece.values.dtype, tuple(piece.values.shape)) for piece in pieces}, {}
    )
    sums: list[list[int]] = [[] for _ in pieces]

    def chunks() -> Iterator[bytes | memoryview]:
        yield text
        for piece, crcs in zip(pieces, sums, strict=True):
            data = as_bytes(piece.values)
            for first in range(0, len(data), BLOCK):
                block = data[first : first + BLOCK]
                crcs.append(zlib.crc32(block))
                yield block

    (folder / f"{name}.safetensors").write_chunks(chunks())
    entries = [
        Entry(
            name=piece.name,
            dtype=_DTYPES[piece.values.dtype],
            shape=piece.shape,
            offsets=piece.offsets,
            sizes=tuple(piece.values.shape),
            begin=at,
            crc32=tuple(crcs),
        )
        for piece, at, crcs in zip(pieces, places, sums, strict=True)
    ]
    (folder / f"{name}.json").write_text(json.dumps([asdict(entry) for entry in entries]))


def safetensors_header(
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]], metadata: dict[str, str]
) -> tuple[bytes, list[int]]:
    """The header of a safetensors file, and the first byte of each tensor in the file; tensors
    follow the header in the order of ``tensors`` (name → type, shape)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    begins, at = [], 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [at, at + size],
        }  # fmt: skip
        begins.append(at)
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    text = struct.pack("<Q", len(text)) + text
    return text, [len(text) + begin for begin in begins]


def _key(piece: Piece) -> str:
    return f"{piece.name}@{','.join(map(str, piece.offsets))}"


def parse_index(text: bytes) -> list[Entry]:
    """The entries of ``<name>.json``."""
    entries = []
    for entry in json.loads(text):
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        entries.append(Entry(**values))
    return entries


def read_rows(file: Folder, entry: Entry, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
    """Rows ``first`` … ``last - 1`` of a saved piece (along its first dimension), several at a
    time; yielded values are valid until the next are yielded.

    Returns:
        (first row, values [rows, …]) one after the other.

    Raises:
        CheckpointError: the bytes of a block differ from the written bytes.
    """
    width = math.prod(entry.sizes[1:]) * entry.torch_dtype.itemsize
    total = entry.sizes[0] * width
    step = max(_AT_ONCE * BLOCK // max(width, 1), 1)
    # One buffer for all reads: allocating new memory takes as long as reading into it.
    buffer = bytearray(min((_AT_ONCE + 2) * BLOCK + width, total))
    with file.fs.open_input_file(file.path) as source:
        for row in range(first, last, step):
            end = min(row + step, last)
            begin_block = row * width // BLOCK
            end_block = -(-(end * width) // BLOCK)
            begin = begin_block * BLOCK
            data = memoryview(buffer)[: min(end_block * BLOCK, total) - begin]
            source.seek(entry.begin + begin)
            source.readinto(data)
            for block in range(begin_block, end_block):
                at = block * BLOCK - begin
                if zlib.crc32(data[at : at + BLOCK]) != entry.crc32[block]:
                    raise CheckpointError(
                        "a checkpoint is damaged: its bytes differ from the written bytes",
                        where=f"{file}, {entry.name}",
                        value=f"block {block} of {len(entry.crc32)} ({BLOCK >> 20} MB each)",
                        rule="every block has the CRC-32 of the index",
                        fix=f"delete the folder {str(file).rsplit('/', 1)[0]}; the run continues "
                        "from the previous checkpoint",
                    )
            rows = data[row * width - begin : end * width - begin]
            values = torch.frombuffer(rows, dtype=entry.torch_dtype)
            yield row, values.view(end - row, *entry.sizes[1:])
