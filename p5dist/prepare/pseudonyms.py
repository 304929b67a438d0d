"""Ids of users as pseudonyms: keyed hashes, which nobody without the key can turn back or compute.

A pseudonym is the first 128 bits of HMAC-SHA256 (RFC 2104) of the id as UTF-8 text, as 32
hexadecimal digits. Ids become pseudonyms where a raw file is read, before anything is written.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5dist.errors import ConfigError
from p5dist.prepare.arrays import one_array
from p5dist.prepare.values import as_text, is_null

_SHORTEST = 16


def key_of(variable: str, where: str) -> bytes:
    """The key.

    Args:
        variable: environment variable that has it.
        where: key path of the job file, for messages.

    Raises:
        ConfigError: it is not set, or short enough to be guessed.
    """
    key = os.environ.get(variable, "").encode()
    if len(key) < _SHORTEST:
        raise ConfigError(
            "the key of the pseudonyms is " + ("too short" if key else "not set"), where=where,
            value=f"environment variable {variable}",
            rule=f"at least {_SHORTEST} bytes, the same on every machine and in every run",
            fix=f"for example export {variable}=$(openssl rand -hex 32), and keep it in a vault",
        )  # fmt: skip
    return key


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
