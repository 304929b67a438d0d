"""Tries seed after seed for some time, from the command line."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path


def try_seeds(check: Callable[[int, Path], None]) -> None:
    """Call ``check`` with seeds and empty folders, and name the seeds for which it raises an error.

    The command line has ``--minutes`` and ``--first``, the first seed.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--first", type=int, default=1)
    options = parser.parse_args()
    end, wrong, seed = time.monotonic() + 60 * options.minutes, [], options.first
    for seed in count(options.first):
        if time.monotonic() > end:
            break
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(seed, Path(folder))
            except Exception as e:
                wrong.append(seed)
                print(f"seed {seed}: {type(e).__name__}: {str(e)[-500:]}", flush=True)
    print(f"seeds {options.first} to {seed - 1}: {len(wrong)} wrong {wrong}")
