"""The noise of a private fine-tuning: a function of key, run, step and place.

HMAC-SHA256 of the key makes a key for the run, that one makes a seed for every block of a tensor at
a step, and a counter-based generator (Philox) makes the numbers. Who has the job file, but not the
key, cannot compute them. A restart repeats a step with the same noise, so that it releases nothing
new. Two runs that differ in anything that decides their updates have independent noise: with equal
noise the difference of their models would be free of it.
"""

from __future__ import annotations

import hmac

import numpy as np

from p5dist.data.jagged import Floats

BLOCK = 1 << 16
"""Numbers of one seed: any worker can make any block."""


class Noise:
    """Standard normal numbers.

    Args:
        key: secret.
        run: says everything that decides the updates of the run.
    """

    def __init__(self, key: bytes, run: str) -> None:
        self._key = hmac.digest(key, b"p5dist noise of a run\n" + run.encode(), "sha256")
        self.check = hmac.digest(self._key, b"check", "sha256")[:4].hex()
        """Tells keys and runs apart; says nothing about either."""

    def block(self, step: int, name: str, number: int, size: int) -> Floats:
        """[size] numbers for block ``number`` of the tensor ``name`` at ``step``."""
        seed = hmac.digest(self._key, f"{step}\n{number}\n{name}".encode(), "sha256")
        key = np.frombuffer(seed[:16], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).standard_normal(size)
