"""A Ray cluster of several nodes on this machine, to try submissions and failures.

Each node is a separate process (see node.py); everything listens on loopback, and no privileges are
needed. Started nodes are recorded in a file, and only recorded nodes are ever ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from p5dist.errors import ClusterError
from p5dist.submit.client import JobServer

_START_S = 90.0
_END_S = 15.0

# With these settings lost nodes and workers are detected in seconds; a real cluster, whose nodes
# may be busy for longer, keeps Ray's defaults.
_SETTINGS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_object_manager_pull_timeout_ms": "1000",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3",
    # Otherwise clients look for a node of 127.0.0.1 at an address of the network.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class LocalNode:
    """A started node."""

    number: int
    pid: int
    """Process id, and session id of all processes of the node."""
    started: int
    """Start time in clock ticks of the kernel, since a process id may be reused."""
    cpus: float
    ip: str
    node_id: str = ""
    address: str = ""
    dashboard: str | None = None

    @property
    def alive(self) -> bool:
        return _started(self.pid) == self.started


def default_folder() -> Path:
    """The default folder; short, since paths of sockets have at most 107 characters."""
    return Path(tempfile.gettempdir()) / f"p5dist-{os.getuid()}"


class LocalCluster:
    """The cluster whose nodes are recorded in ``folder``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._file = self.folder / "cluster.json"

    def nodes(self) -> list[LocalNode]:
        """All nodes, including ended nodes; empty if no cluster was started.

        Raises:
            ClusterError: the folder belongs to another user.
        """
        if not self._file.exists():
            return []
        self._own()
        return [LocalNode(**node) for node in json.loads(self._file.read_text())]

    @property
    def dashboard(self) -> str | None:
        """Address of the job server; None without a living head."""
        nodes = self.nodes()
        return nodes[0].dashboard if nodes and nodes[0].alive else None

    def up(
        self,
        *,
        nodes: int,
        cpus: float,
        port: int = 8265,
        store_mb: int = 256,
        separate_hosts: bool = False,
    ) -> None:
        """Start a head and ``nodes - 1`` other nodes, and wait until all have joined.

        Args:
            cpus: CPUs of each node.
            port: port of dashboard and job server, on loopback.
            store_mb: object store of each node, in MiB.
            separate_hosts: each node has a separate address (127.0.0.1, 127.0.0.2, …), so that Ray
                Train and TorchRec see one host per node. Ray then listens on all interfaces of
                this machine, which other machines must not be able to reach.

        Raises:
            ClusterError: a local cluster is already up, or a node does not start.
        """
        if any(node.alive for node in self.nodes()):
            raise ClusterError(
                "a local cluster is already up", where=str(self.folder),
                fix="use it (p5dist cluster status), or end it first: p5dist cluster down",
            )  # fmt: skip
        _check_free(port)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own()
        try:
            settings = {"cpus": cpus, "object_store_mb": store_mb, "separate_hosts": separate_hosts}
            head = self._start(0, settings | {"address": None, "dashboard_port": port})
            self._write([self._wait(*head)])
            self.add(nodes - 1)
        except BaseException:
            self.down()
            raise

    def add(self, count: int) -> None:
        """Start ``count`` more nodes with the settings of the cluster.

        Raises:
            ClusterError: there is no cluster, or a node does not start.
        """
        there = self.nodes()
        if not there or not there[0].alive:
            raise ClusterError(
                "no local cluster is up", where=str(self.folder), fix="p5dist cluster up"
            )
        settings = json.loads((self.folder / "settings-0.json").read_text())
        settings["address"] = there[0].address
        numbers = range(there[-1].number + 1, there[-1].number + 1 + count)
        started = [self._start(n, settings) for n in numbers]
        # Recorded before they are up, so that every started node can be ended.
        self._write(there + [node for node, _ in started])
        self._write(there + [self._wait(*one) for one in started])
        self._joined()

    def down(self) -> int:
        """End the nodes of this cluster, the head last; returns their number."""
        alive = [node for node in reversed(self.nodes()) if node.alive]
        for node in alive:
            os.kill(node.pid, signal.SIGTERM)
            _wait_for_end(node)
        for node in self.nodes():
            _kill_session(node.pid)
        self._file.unlink(missing_ok=True)
        return len(alive)

    def kill(self, number: int) -> LocalNode:
        """Kill all processes of a node (SIGKILL), like the failure of a machine.

        Raises:
            ClusterError: no such node is alive.
        """
        node = next((n for n in self.nodes() if n.number == number and n.alive), None)
        if node is None:
            alive = ", ".join(str(n.number) for n in self.nodes() if n.alive)
            raise ClusterError(
                "no such node is alive", value=number, where=str(self.folder),
                rule=f"alive: {alive or 'none'}", fix="p5dist cluster status",
            )  # fmt: skip
        _kill_session(node.pid)
        return node

    def _start(
        self, number: int, settings: dict[str, Any]
    ) -> tuple[LocalNode, subprocess.Popen[bytes]]:
        # All addresses of 127.0.0.0/8 belong to this machine.
        ip = f"127.0.0.{number + 1}" if settings["separate_hosts"] else "127.0.0.1"
        file = self.folder / f"settings-{number}.json"
        own = {"folder": str(self.folder), "number": number, "ip": ip}
        file.write_text(json.dumps(settings | own))
        (self.folder / f"node-{number}.json").unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with (self.folder / f"node-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "p5dist.submit.node", str(file)],
                env=_SETTINGS | environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        started = _started(process.pid) or 0
        return LocalNode(number, process.pid, started, settings["cpus"], ip), process

    def _wait(self, node: LocalNode, process: subprocess.Popen[bytes]) -> LocalNode:
        file = self.folder / f"node-{node.number}.json"
        end = time.monotonic() + _START_S
        while not file.exists():
            if process.poll() is not None or time.monotonic() > end:
                _kill_session(process.pid)
                log = self.folder / f"node-{node.number}.log"
                lines = log.read_text(errors="replace").rstrip().splitlines()
                raise ClusterError(
                    f"node {node.number} did not start", where=str(log),
                    value=lines[-1] if lines else f"nothing within {_START_S:.0f} s",
                    fix="read the log; usual causes: a port in use, a full disk",
                )  # fmt: skip
            time.sleep(0.1)
        facts = json.loads(file.read_text())
        return replace(node, **{key: facts[key] for key in ("node_id", "address", "dashboard")})

    def _joined(self) -> None:
        """Wait until the job server knows all nodes."""
        nodes = self.nodes()
        wanted = {node.node_id for node in nodes if node.alive}
        server, end = JobServer(str(nodes[0].dashboard)), time.monotonic() + _START_S
        while not wanted <= server.alive():
            if time.monotonic() > end:
                raise ClusterError("not all nodes joined the cluster", where=server.address)
            time.sleep(0.3)

    def _write(self, nodes: list[LocalNode]) -> None:
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps([asdict(node) for node in nodes], indent=2))
        temporary.replace(self._file)

    def _own(self) -> None:
        if self.folder.stat().st_uid != os.getuid():
            raise ClusterError(
                "the folder of the local cluster belongs to another user", where=str(self.folder),
                fix="choose another folder: --folder",
            )  # fmt: skip


def _stat(pid: int | str) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (the state) on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None if the process has ended."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def _kill_session(session: int) -> None:
    """SIGKILL to every process of a session, even if its leader has ended; returns when no process
    is left, or after 15 s."""
    end = time.monotonic() + _END_S
    while members := _members(session):
        for pid in members:  # including processes started since the last round
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            return
        time.sleep(0.05)


def _members(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    entries = [(entry.name, _stat(entry.name)) for entry in Path("/proc").glob("[0-9]*")]
    return [int(pid) for pid, fields in entries
            if fields and int(fields[3]) == session and fields[0] != "Z"]  # fmt: skip


def _wait_for_end(node: LocalNode) -> None:
    end = time.monotonic() + _END_S
    while node.alive and time.monotonic() < end:
        time.sleep(0.05)


def _check_free(port: int) -> None:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError as e:
            raise ClusterError(
                "the port of the job server is in use", where="--port", value=port,
                fix="end the process that uses the port, or choose another port: --port",
            ) from e  # fmt: skip
