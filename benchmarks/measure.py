"""Measures a command from outside: wall seconds, peak memory and peak disk of all its processes.

Linux only. The command gets a mark in its environment, which all its descendants inherit, including
processes that Ray starts and that leave the process tree. A process is counted if it has the mark,
or if its parent is counted (a process may have overwritten its environment by a title).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

PERIOD = 0.5
"""Seconds between two samples."""

_MARK = "P5DIST_BENCHMARK"


@dataclass(frozen=True)
class Measured:
    """The result of :func:`measure`."""

    seconds: float
    cpu_seconds: float
    """CPU seconds of the command and of all descendants that were waited for."""
    memory_bytes: int
    """Peak of the sum of the proportional set sizes (PSS), so that shared pages, such as pages of
    Ray's object store, count once."""
    disk_bytes: int
    """Peak of all files below the scratch folder."""
    processes: int
    """Largest number of processes at once."""
    output: str


def measure(command: list[str], scratch: Path) -> Measured:
    """Run ``command`` to its end with all temporary files below ``scratch``, which is emptied.

    Raises:
        RuntimeError: the command failed; with the end of its output.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "tmp").mkdir(parents=True)
    os.sync()  # earlier writes must not slow this command
    mark = uuid.uuid4().hex
    temporary = str(scratch / "tmp")
    env = {**os.environ, _MARK: mark, "TMPDIR": temporary, "RAY_TMPDIR": temporary}
    log = scratch.with_suffix(".log")
    before = os.times()
    with log.open("wb") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        watch = _Watch(mark, process.pid, scratch)
        output = process.communicate()[0].decode()
        seconds = time.perf_counter() - began
        watch.end()
    after = os.times()
    if process.returncode:
        end = (output + log.read_text(errors="replace"))[-3000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{end}")
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return Measured(seconds, cpu, watch.memory, watch.disk, watch.processes, output)


class _Watch(threading.Thread):
    def __init__(self, mark: str, pid: int, scratch: Path) -> None:
        super().__init__(daemon=True)
        self.mark, self.scratch = f"{_MARK}={mark}".encode(), scratch
        self.memory = self.disk = self.processes = 0
        self._known = {pid}
        self._others: set[tuple[int, str]] = set()
        self._stop_now = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_now.wait(PERIOD):
            self._look()

    def end(self) -> None:
        """Stop, and end the processes that the command left behind."""
        self._stop_now.set()
        self.join()
        self._look()
        until = time.monotonic() + 10
        while (left := self._members()) and time.monotonic() < until:
            time.sleep(0.2)
        for pid in left:
            os.kill(pid, signal.SIGKILL)

    def _look(self) -> None:
        members = self._members()
        self.processes = max(self.processes, len(members))
        self.memory = max(self.memory, sum(map(_pss, members)))
        self.disk = max(self.disk, _size(self.scratch))

    def _members(self) -> list[int]:
        parents: dict[int, int] = {}
        marked: set[int] = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                pid, identity = int(folder.name), (int(folder.name), fields[19])
                if fields[0] == "Z":
                    continue
                parents[pid] = int(fields[1])
                if identity in self._others:
                    continue
                if self.mark in (folder / "environ").read_bytes():
                    marked.add(pid)
                elif parents[pid] not in self._known:
                    self._others.add(identity)
            except (OSError, IndexError):
                continue  # it has ended, or belongs to another user
        members = marked | (self._known & parents.keys())
        while more := {p for p, parent in parents.items() if parent in members} - members:
            members |= more
        self._known = members
        return sorted(members)


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("Pss:")), 0)


def _size(folder: Path) -> int:
    """Bytes on disk of all files below the folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_blocks * 512
            except OSError:
                continue
    return total
