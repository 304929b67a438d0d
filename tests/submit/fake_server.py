"""A job server that records its requests, instead of Ray's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeServer:
    """What the cluster is, and what came in."""

    version: str = "2.60.0"
    hosts: list[str] = field(default_factory=lambda: ["head"])
    token: str | None = None
    jobs: list[dict[str, Any]] = field(default_factory=list)
    packages: dict[str, bytes] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    uploads: int = 0
    log: str = ""
    address: str = ""

    def finish(self, status: str) -> None:
        """The latest job ends."""
        self.jobs[-1]["status"] = status

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        parts = path.partition("?")[0].strip("/").split("/")
        if parts == ["api", "version"]:
            return self._json({"ray_version": self.version})
        if parts == ["nodes"]:
            return self._json({"data": {"summary": [self._node(h) for h in self.hosts]}})
        if parts[:2] == ["api", "packages"]:
            return self._package(method, parts[3], body)
        if parts == ["api", "jobs"]:
            return self._submit(body) if method == "POST" else self._json(self.jobs)
        job = next((j for j in self.jobs if j["submission_id"] == parts[2]), None)
        if job is None:
            return 404, b"does not exist"
        if parts[3:] == ["logs"]:
            return self._json({"logs": self.log})
        if parts[3:] == ["stop"]:
            stopped = job["status"] in ("PENDING", "RUNNING")
            job["status"] = "STOPPED" if stopped else job["status"]
            return self._json({"stopped": stopped})
        return self._json(job)

    def _package(self, method: str, name: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            self.packages[name] = body
            self.uploads += 1
        return (200, b"") if name in self.packages else (404, b"")

    def _submit(self, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        id = request["submission_id"]
        if any(job["submission_id"] == id for job in self.jobs):
            return 500, f"Traceback\nValueError: Job {id} already exists".encode()
        self.requests.append(request)
        job = {"submission_id": id, "status": "RUNNING", "metadata": request["metadata"]}
        self.jobs.append(job | {"start_time": 1000 * len(self.requests)})
        return self._json({"submission_id": id})

    def _node(self, host: str) -> dict[str, Any]:
        command = ["raylet", "--python_worker_command=/opt/venv/bin/python worker.py --x=1"]
        raylet = {"state": "ALIVE", "isHeadNode": host == self.hosts[0], "nodeId": host}
        return {"hostname": host, "cmdline": command, "raylet": raylet}

    @staticmethod
    def _json(value: Any) -> tuple[int, bytes]:
        return 200, json.dumps(value).encode()


@contextmanager
def running(fake: FakeServer) -> Iterator[FakeServer]:
    """Serve ``fake`` on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = self.headers.get("Authorization")
            if fake.token is None or given == f"Bearer {fake.token}":
                status, answer = fake.answer(self.command, self.path, body)
            else:
                status, answer = (403 if given else 401), b"Unauthorized"
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST = _reply  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
