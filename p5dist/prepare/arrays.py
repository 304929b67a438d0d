"""Operations on columns of external ids and counts that NumPy and Arrow lack: hashes that are the
same everywhere, sorting by several keys, sums of counts, the order of ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.data.jagged import Array, Ints
from p5dist.data.randomness import GOLDEN, UInts, splitmix

Codes = npt.NDArray[np.int32]
Ids: TypeAlias = pa.Array
"""External ids: int64, or text."""


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def stable_hash(text: pa.StringArray) -> UInts:
    """[n] 64-bit hashes of the UTF-8 bytes, the same on every machine and version.

    h = splitmix(length + g), then h = splitmix((h ^ word) + g) for every little-endian word of 8
    bytes, the last one filled up with zeros; g is the increment of SplitMix64.
    """
    if not len(text):
        return np.zeros(0, np.uint64)
    _, offset_bytes, data_bytes = text.buffers()
    offsets = np.frombuffer(offset_bytes, np.int32)[text.offset : text.offset + len(text) + 1]
    start, length = offsets[:-1].astype(np.int64), np.diff(offsets).astype(np.int64)
    data = np.frombuffer(data_bytes, np.uint8) if data_bytes is not None else np.zeros(0, np.uint8)
    data = np.concatenate([data, np.zeros(8, np.uint8)])
    words: UInts = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    value = splitmix(length.astype(np.uint64) + GOLDEN)
    alive = np.flatnonzero(length > 0)
    done = 0
    while len(alive):
        left = np.minimum(length[alive] - done, 8).astype(np.uint64)
        word = words[start[alive] + done] & (~np.uint64(0) >> (np.uint64(64) - left * np.uint64(8)))
        value[alive] = splitmix((value[alive] ^ word) + GOLDEN)
        done += 8
        alive = alive[length[alive] > done]
    return value


def hash_ids(ids: Ids) -> UInts:
    """[n] 64-bit hashes of external ids: :func:`stable_hash` of text, splitmix of numbers."""
    if pa.types.is_string(ids.type):
        return stable_hash(ids)
    return splitmix(ids.to_numpy(zero_copy_only=False).view(np.uint64) + GOLDEN)


def stable_order(*keys: Ints | Codes | npt.NDArray[np.int8]) -> Ints:
    """[n] the result of ``np.lexsort(keys)`` (the last key is the primary one; equal rows keep
    their order), several times faster: keys and position are packed into words that are sorted."""
    n = len(keys[0])
    order: Ints | None = None
    bits = max(n - 1, 0).bit_length()
    mask, position = (1 << bits) - 1, np.arange(n, dtype=np.int64)
    word, used = np.zeros(0, np.int64), 0  # keys to sort by next, and their bits

    def then(step: Ints) -> Ints:
        return step if order is None else order[step]

    def sort_word() -> Ints:
        packed = (word if order is None else word[order]) << bits | position
        packed.sort()
        return then(packed & mask)

    for key in keys:
        if not n or (order is None and not used and np.all(key[1:] >= key[:-1])):
            continue
        low = int(key.min())
        width = max((int(key.max()) - low).bit_length(), 1)
        if used and used + width + bits > 63:
            order, used = sort_word(), 0
        if width + bits > 63:
            order = then(np.argsort(key if order is None else key[order], kind="stable"))
        else:
            more = key.astype(np.int64) - low
            word = word | more << used if used else more
            used += width
    if used:
        order = sort_word()
    return position if order is None else order


def merge_counts(parts: Iterable[tuple[Array, Ints]]) -> tuple[Array, Ints]:
    """Sum (values, counts) tables; values come back distinct and rising."""
    tables = list(parts)
    if not tables:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    values, inverse = np.unique(np.concatenate([v for v, _ in tables]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, inverse, np.concatenate([n for _, n in tables]))
    return values, counts


def encode(column: pa.ChunkedArray) -> tuple[Ids, Codes]:
    """Distinct values in the order of first sight, and [n] the index of each row's value."""
    whole = column.combine_chunks()  # one hash table instead of one a chunk
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    coded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    return coded.dictionary, coded.indices.to_numpy(zero_copy_only=False)


def is_integer_text(text: pa.Array) -> Array:
    """[n] whether each value is a whole number of at most 18 digits."""
    plain = pc.and_(pc.ascii_is_decimal(text), pc.less_equal(pc.binary_length(text), 18))
    if pc.all(plain, skip_nulls=False).as_py():
        return np.ones(len(text), np.bool_)
    match = pc.match_substring_regex(text, r"^-?[0-9]{1,18}$")  # several times slower
    return np.asarray(pc.fill_null(match, False))


def id_order(ids: Ids) -> Ints:
    """[n] indices that sort external ids: as numbers if all of them are whole numbers (equal
    numbers by their text), else by their UTF-8 bytes."""
    if not pa.types.is_string(ids.type):
        return np.argsort(ids.to_numpy(zero_copy_only=False), kind="stable")
    keys = {"text": ids}
    if len(ids) and is_integer_text(ids).all():
        keys = {"number": ids.cast(pa.int64())} | keys
    order = pc.sort_indices(pa.table(keys), sort_keys=[(key, "ascending") for key in keys])
    return np.asarray(order).astype(np.int64)
