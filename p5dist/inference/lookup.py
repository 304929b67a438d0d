"""External id → position among the ids of a run, for many calls on the same ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.data.jagged import Ints
from p5dist.prepare.arrays import stable_hash


class Lookup:
    """Finds ids by binary search among sorted hashes: 16 bytes an id, and no table of all ids is
    built in every call, as ``pyarrow.compute.index_in`` does.

    Args:
        external: different ids, or null.
    """

    def __init__(self, external: pa.StringArray) -> None:
        self._external = external
        position = np.flatnonzero(np.asarray(external.is_valid()))
        hashes = stable_hash(external.drop_null())
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._position = hashes[order], position[order]

    def __call__(self, text: pa.StringArray) -> Ints:
        """[n] positions from 0; -1 for ids that are not among them, and for null."""
        found = np.full(len(text), -1, dtype=np.int64)
        asked = np.flatnonzero(np.asarray(text.is_valid()))
        text = text.drop_null()
        hashes = stable_hash(text)
        at = np.searchsorted(self._hashes, hashes)
        while len(asked):
            inside = at < len(self._hashes)
            inside[inside] = self._hashes[at[inside]] == hashes[inside]
            asked, at, hashes = asked[inside], at[inside], hashes[inside]
            text = text.filter(pa.array(inside))
            position = self._position[at]
            equal = np.asarray(pc.equal(self._external.take(pa.array(position)), text))
            found[asked[equal]] = position[equal]
            other = ~equal  # another id with the same hash: look at the next one
            asked, at, hashes = asked[other], at[other] + 1, hashes[other]
            text = text.filter(pa.array(other))
        return found
