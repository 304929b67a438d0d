"""Ids of users as pseudonyms: keyed hashes, which nobody without the key can turn back or compute.

A pseudonym is the first 128 bits of HMAC-SHA256 (RFC 2104) of the id as UTF-8 text, as 32
hexadecimal digits. Ids become pseudonyms where a raw file is read, before anything is written.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.environment.keys import key_of as secret_key
from p5dist.prepare.arrays import one_array
from p5dist.prepare.values import as_text, is_null


def key_of(variable: str, where: str) -> bytes:
    """See :func:`p5dist.environment.keys.key_of`."""
    return secret_key(variable, where, "the pseudonyms")


def check_of(variable: str | None) -> str | None:
    """See :attr:`.Manifest.key_check`.

    Raises:
        ConfigError: see :func:`key_of`.
    """
    if variable is None:
        return None
    return pseudonyms(["p5dist"], key_of(variable, "prepare.privacy.pseudonyms"))[0][:8]


def pseudonyms(ids: Iterable[str], key: bytes) -> list[str]:
    """The pseudonym of each id."""
    return [hmac.digest(key, one.encode(), "sha256")[:16].hex() for one in ids]


def with_pseudonyms(column: pa.ChunkedArray, key: bytes) -> pa.ChunkedArray:
    """A column of ids as pseudonyms; what is no id stays as it is."""
    text = as_text(column)
    coded = one_array(text).dictionary_encode()
    values = coded.dictionary
    none = is_null(pa.chunked_array([values]))
    known = np.ones(len(values), dtype=bool) if none is None else ~none
    made = values.to_pylist()
    kept = np.flatnonzero(known)
    for place, pseudonym in zip(kept, pseudonyms((made[i] for i in kept), key), strict=True):
        made[place] = pseudonym
    named = pa.array(made, pa.string())
    return pa.chunked_array([pc.take(named, coded.indices)])
