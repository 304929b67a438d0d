"""Memory that the C library keeps is returned to the system, but not at every check."""

from __future__ import annotations

import subprocess
import sys

import pytest

# 2,000 blocks of 100 kB, written to, of which all are freed but the last: it lies on top of the
# heap, so glibc gives nothing back on its own.
PROGRAM = """
import ctypes, resource
from pathlib import Path
from p5dist.environment import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
before = resident()
blocks = [libc.malloc(100_000) for _ in range(2_000)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]:
    libc.free(block)
kept = resident() - before
free = heap.FreeMemory()
free.look()
early = resident() - before
heap.time.monotonic = lambda now=heap.time.monotonic(): now + 61
free.look()
print(kept, early, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back_after_a_minute() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    kept, early, after = map(int, done.stdout.split())
    assert kept > 150e6
    assert early > 150e6
    assert after < 50e6
