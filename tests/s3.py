"""An S3 store over HTTP for tests: moto in a separate process, behind a proxy that makes faults.

Fixtures in tests/conftest.py: ``s3`` gives a new bucket in a store without faults;
``ray_session`` has the same store in the environment of its workers.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY_ID, SECRET = "AKIATESTKEYIDOFTHESTORE", "test-secret-of-the-store"
ATTEMPTS = 4

Action = Literal[
    "slow_down", "deny", "answer", "delay", "drop", "lose_answer", "truncate", "shorten"
]
_ERRORS = {"slow_down": (503, "SlowDown", "Please reduce your request rate."),
           "deny": (403, "AccessDenied", "Access Denied")}  # fmt: skip


@dataclass
class Fault:
    """What happens to some requests.

    slow_down, deny: answered with 503 or 403; answer: answered with ``status`` and ``body``;
    delay: forwarded after ``seconds``;
    drop: the connection ends before the request is forwarded; lose_answer: after that;
    truncate: half of the body follows headers that name all of it; shorten: half of the body
    under headers that name half.
    """

    action: Action
    method: str = "*"
    key: str = "*"
    """Pattern (fnmatch) of ``bucket/key?query``."""
    skip: int = 0
    """Matching requests that go through first."""
    times: int | None = 1
    """Requests that are hit after those; None: all."""
    once_each: bool = False
    """Hit every method and target once, whatever ``times`` says."""
    seconds: float = 0.0
    status: int = 200
    body: bytes = b""
    seen: int = 0
    hits: int = 0
    _hit: set[tuple[str, str]] = field(default_factory=set)

    def takes(self, method: str, target: str) -> bool:
        if not (fnmatchcase(method, self.method) and fnmatchcase(target, self.key)):
            return False
        self.seen += 1
        if self.once_each:
            hit = (method, target) not in self._hit
        else:
            hit = self.times is None or self.hits < self.times
        hit = hit and self.seen > self.skip
        if hit:
            self.hits += 1
            self._hit.add((method, target))
        return hit


@dataclass
class FaultProxy:
    """Forwards HTTP to ``upstream``, writes down every request and applies faults."""

    upstream: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and ``bucket/key?query`` of every request, in order of arrival."""
    address: tuple[str, int] = ("127.0.0.1", 0)
    bytes_sent: int = 0
    """Of bodies, to the client."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, action: Action, **options: Any) -> Fault:
        fault = Fault(action, **options)
        with self._lock:
            self.faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self.faults.clear()
            self.requests.clear()
            self.bytes_sent = 0

    def count(self, method: str = "*", key: str = "*") -> int:
        return sum(fnmatchcase(m, method) and fnmatchcase(t, key) for m, t in self.requests)

    def fault_for(self, method: str, target: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, target))
            return next((f for f in self.faults if f.takes(method, target)), None)

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        server = ThreadingHTTPServer(self.address, Handler)
        server.daemon_threads = True
        self.address = ("127.0.0.1", server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client went away, as it may
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.owner.fault_for(self.command, self.path.lstrip("/"))
        action = fault.action if fault else None
        if action == "drop":
            self._hang_up()
        elif fault is not None and action == "answer":
            self._send(fault.status, [("Content-Type", "application/xml")], fault.body)
        elif action in _ERRORS:
            status, code, message = _ERRORS[action]
            xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            self._send(status, [("Content-Type", "application/xml")], xml.encode())
        else:
            if fault is not None:
                time.sleep(fault.seconds)
            self._forward(body, action)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _do  # noqa: N815

    def _forward(self, body: bytes, action: Action | None) -> None:
        upstream = HTTPConnection(*self.owner.upstream)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        headers, data = answer.getheaders(), answer.read()
        upstream.close()
        if action == "lose_answer":
            self._hang_up()
        elif action == "truncate":
            self._send(answer.status, headers, data[: len(data) // 2], len(data))
            self._hang_up()
        elif action == "shorten":
            self._send(answer.status, headers, data[: len(data) // 2])
        else:
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self._send(answer.status, headers, data, int(length) if length else None)

    def _send(
        self, status: int, headers: list[tuple[str, str]], data: bytes, length: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.owner.bytes_sent += len(data)
            self.wfile.write(data)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Store:
    """A new bucket, and the proxy in front of it."""

    proxy: FaultProxy
    bucket: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    def client(self) -> Any:
        """A boto3 client that goes past the proxy."""
        import boto3

        host, port = self.proxy.upstream
        return boto3.client("s3", endpoint_url=f"http://{host}:{port}")

    def read(self, key: str) -> bytes:
        """An object, past the proxy."""
        return bytes(self.client().get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def all_keys(self) -> list[str]:
        """All keys of the bucket, past the proxy."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def environment(proxy: FaultProxy) -> dict[str, str]:
    """What the standard chain of AWS needs to find the store, and nothing of the machine's own."""
    host, port = proxy.address
    return {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": str(ATTEMPTS),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def moto_server(port: int) -> Iterator[None]:
    """moto on a port of loopback, until the block ends."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "moto ended: is moto[server] installed?"
                assert time.monotonic() < deadline, "moto does not listen"
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()
