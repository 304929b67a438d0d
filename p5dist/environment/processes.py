"""Worker processes on this machine: fresh interpreters that take one call at a time.

They import the modules of the tasks while the driver still plans, share no state with the driver
but ``sys.path`` and the environment, and end with the driver, even if it is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pyarrow as pa

from p5dist.errors import P5Error, ResourceError

_MEMORY = 2 << 30
"""Least memory per worker, in bytes."""

_START = (
    "import sys; fd, module, *sys.path = sys.argv[1:]; "
    "from p5dist.environment.processes import serve; serve(int(fd), module)"
)


@dataclass(frozen=True)
class _Shared:
    """A value in a file of the driver's."""

    file: str


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    connection: Connection
    owes: tuple[int, int] | None = None
    """Pass and number of the call that it works on."""


class Processes:
    """See :class:`.workers.Workers`.

    Args:
        where: the stage, for messages.
        most: processes; left out: one a CPU, if there are 2 GiB of memory for each.
        imports: module that the processes import while the driver still plans; empty: none.
    """

    def __init__(self, where: str, most: int | None = None, imports: str = "") -> None:
        self._where, self._imports = where, imports
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.most = most or max(1, min(len(os.sched_getaffinity(0)), memory // _MEMORY))
        self._folder = tempfile.TemporaryDirectory(prefix="p5dist-")
        self._names, self._passes = count(), count()
        self._all: list[_Process] = []
        self._grow(2)

    def share(self, value: Any) -> Any:
        file = Path(self._folder.name) / f"{next(self._names)}.pickle"
        with file.open("wb") as f:
            pickle.dump(value, f, protocol=5)
        return _Shared(str(file))

    def results(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        self._grow(len(calls))
        this, left = next(self._passes), len(calls)
        todo = deque(enumerate(calls))

        def give(worker: _Process) -> None:
            if todo:
                number, arguments = todo.popleft()
                worker.owes = this, number
                self._send(worker, (function, arguments))

        for worker in self._all:
            if worker.owes is None:
                give(worker)
        while left:
            busy = {w.connection: w for w in self._all if w.owes is not None}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                assert worker.owes is not None
                (pass_, number), worker.owes = worker.owes, None
                result, error = self._receive(worker)
                if pass_ != this:  # of a pass that was given up
                    give(worker)
                    continue
                if error is not None:
                    raise error
                give(worker)
                left -= 1
                yield number, result

    def close(self) -> None:
        for worker in self._all:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._all:
            worker.process.wait()
        self._all.clear()
        self._folder.cleanup()

    def _grow(self, wanted: int) -> None:
        while len(self._all) < min(wanted, self.most):
            self._all.append(_start(self._imports))

    def _send(self, worker: _Process, call: Any) -> None:
        try:
            worker.connection.send(call)
        except OSError:
            raise self._lost(worker) from None

    def _receive(self, worker: _Process) -> tuple[Any, BaseException | None]:
        try:
            answer: tuple[Any, BaseException | None] = worker.connection.recv()
        except (EOFError, OSError):
            raise self._lost(worker) from None
        return answer

    def _lost(self, worker: _Process) -> ResourceError:
        self._all.remove(worker)
        code = worker.process.wait()
        return ResourceError(
            "a worker process was lost", where=self._where, value=f"exit code {code}",
            rule="-9: the system kills processes when memory runs out",
            fix="give it more memory (prepare: or more prepare.shards); the same command continues",
        )  # fmt: skip


def _start(imports: str) -> _Process:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.set_inheritable(True)
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno()), imports, *sys.path],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return _Process(process, Connection(ours.detach()))


def serve(fd: int, imports: str) -> None:
    """The loop of a worker: answer calls until the driver closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles it and ends its workers
    # While the driver plans; pyarrow imports pandas, if there is one, at the first array.
    if imports:
        import_module(imports)

    pa.array([0])

    with Connection(fd) as driver:
        try:
            while True:
                driver.send(_answer(*driver.recv()))
        except (EOFError, OSError):
            return


def _answer(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, Any]:
    try:
        values = [_load(a.file) if isinstance(a, _Shared) else a for a in arguments]
        return function(*values), None
    except P5Error as e:
        return None, e
    except Exception:
        return None, RuntimeError(f"in a worker process:\n{traceback.format_exc()}")


@lru_cache(maxsize=16)
def _load(file: str) -> Any:
    with Path(file).open("rb") as f:
        return pickle.load(f)
