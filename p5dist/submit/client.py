"""A client of the job server of a Ray cluster over HTTP, without Ray: submit, list, logs, stop.

The job server shares port 8265 of the head node with the dashboard. Ray's own JobSubmissionClient
(2.60) is not used: RAY_ADDRESS and RAY_API_SERVER_ADDRESS override the address that a caller passes
to the client, so a job could reach another cluster than the user named; the client waits without
limit for a server that accepts a connection and stays silent, and has no call for the nodes of a
cluster. With RAY_AUTH_MODE=token the token comes from the same sources as for Ray's own clients:
RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from p5dist.errors import ClusterError

RAY = "2.60"
"""Release of Ray that p5dist is written for; the cluster must run the same release."""

FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")

_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """A submitted job as the server reports it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    metadata: dict[str, str]
    start: float | None
    """Seconds since 1970."""
    end: float | None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @classmethod
    def of(cls, values: dict[str, Any]) -> Job:
        start, end = values.get("start_time"), values.get("end_time")
        return cls(
            id=values["submission_id"],
            status=values["status"],
            message=values.get("message") or "",
            metadata=values.get("metadata") or {},
            start=start / 1000 if start else None,
            end=end / 1000 if end else None,
        )


@dataclass(frozen=True)
class Cluster:
    """The facts about the nodes that a submission needs."""

    hosts: tuple[str, ...]
    """Distinct host names of the living nodes; the host of the head first."""
    python: str | None
    """Interpreter that runs Ray on the head node; None if Ray does not report it."""


class JobServer:
    """Client of the job server at ``address``, such as ``http://head:8265``.

    Raises:
        ClusterError: from every method: no server, another release of Ray, no permission, or an
            answer with an error.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClusterError(
                "not the address of a job server", where="--address", value=address,
                rule="http://HOST:8265, where the head node serves its dashboard",
                fix="pass the address of the dashboard (not ray://, and not port 6379 of Ray "
                "itself)",
            )  # fmt: skip
        self.address = f"{parts.scheme}://{parts.netloc}"

    def check(self) -> str:
        """The version of Ray on the cluster, after checking that it is release RAY."""
        version = str(self._json("GET", "/api/version").get("ray_version"))
        if version.rsplit(".", 1)[0] != RAY:
            raise ClusterError(
                "the cluster runs another release of Ray", where=self.address, value=version,
                rule=f"p5dist is written for Ray {RAY}",
                fix=f"start the cluster with Ray {RAY} (p5dist's image has it)",
            )  # fmt: skip
        return version

    def cluster(self) -> Cluster:
        """The nodes that are alive."""
        alive = self._alive()
        hosts = tuple(dict.fromkeys(n["hostname"] for n in alive if "hostname" in n))
        return Cluster(hosts, _interpreter(alive[0].get("cmdline", [])) if alive else None)

    def alive(self) -> set[str]:
        """Ids of the living nodes."""
        return {n["raylet"]["nodeId"] for n in self._alive()}

    def _alive(self) -> list[dict[str, Any]]:
        """The living nodes, the head first."""
        nodes = self._json("GET", "/nodes?view=summary").get("data", {}).get("summary", [])
        alive = [n for n in nodes if n.get("raylet", {}).get("state") == "ALIVE"]
        return sorted(alive, key=lambda n: not n["raylet"].get("isHeadNode", False))

    def upload(self, name: str, archive: bytes) -> str:
        """Send a zip archive unless the cluster has it; returns its URI for a runtime
        environment."""
        path = f"/api/packages/gcs/{quote(name)}"
        status, body = self._call("GET", path)
        if status == 404:
            status, body = self._call("PUT", path, archive)
        if status != 200:
            raise self._refused("the job server did not accept the package", status, body)
        return f"gcs://{name}"

    def submit(self, request: dict[str, Any]) -> str:
        """Start a job; returns its id."""
        return str(self._json("POST", "/api/jobs/", request)["submission_id"])

    def jobs(self) -> list[Job]:
        """All submitted jobs that the cluster remembers, oldest first."""
        found = self._json("GET", "/api/jobs/")
        return sorted(
            (Job.of(j) for j in found if j.get("submission_id")), key=lambda j: j.start or 0.0
        )

    def job(self, id: str) -> Job:
        """The job ``id``."""
        return Job.of(self._json("GET", f"/api/jobs/{quote(id, safe='')}", known=id))

    def logs(self, id: str) -> str:
        """Everything that the job has printed."""
        answer = self._json("GET", f"/api/jobs/{quote(id, safe='')}/logs", known=id)
        return str(answer["logs"])

    def stop(self, id: str) -> bool:
        """Ask the job to end; False if it had already ended."""
        answer = self._json("POST", f"/api/jobs/{quote(id, safe='')}/stop", known=id)
        return bool(answer["stopped"])

    def _json(self, method: str, path: str, body: Any = None, known: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        status, answer = self._call(method, path, data)
        if status == 404 and known is not None:
            raise ClusterError(
                "the cluster knows no such job", where=self.address, value=known,
                rule="a cluster forgets its jobs when its head node ends",
                fix=f"p5dist jobs list --address {self.address}",
            )  # fmt: skip
        if status != 200:
            raise self._refused("the job server refused the request", status, answer)
        try:
            return json.loads(answer)
        except ValueError as e:
            raise self._not_ray(answer.decode(errors="replace")) from e

    def _call(self, method: str, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer."""
        request = urllib.request.Request(self.address + path, data=data, method=method)
        if data is not None:
            kind = "application/zip" if method == "PUT" else "application/json"
            request.add_header("Content-Type", kind)
        token = _token()
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return int(answer.status), bytes(answer.read())
        except urllib.error.HTTPError as e:
            return e.code, e.read()
        except http.client.HTTPException as e:
            raise self._not_ray(repr(e)) from e
        except OSError as e:
            raise ClusterError(
                "no job server answers", where=self.address, value=str(getattr(e, "reason", e)),
                rule="the head node serves jobs on port 8265, by default on loopback only",
                fix="check the address; from outside, forward the port: "
                "ssh -L 8265:127.0.0.1:8265 HEAD, or kubectl port-forward service/HEAD 8265",
            ) from e  # fmt: skip

    def _not_ray(self, answer: str) -> ClusterError:
        return ClusterError(
            "the address is not a job server of Ray", where=self.address, value=answer,
            rule="http://HOST:8265, where the head node serves its dashboard",
            fix="correct the address",
        )  # fmt: skip

    def _refused(self, what: str, status: int, body: bytes) -> ClusterError:
        lines = [line for line in body.decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip() if lines else ""
        if status in (401, 403):
            return ClusterError(
                "the cluster needs another token" if _token() else "the cluster needs a token",
                where=self.address, value=f"{status}: {last}",
                fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the "
                "token of the cluster",
            )  # fmt: skip
        return ClusterError(
            what, where=self.address, value=f"{status}: {last}",
            fix="read dashboard.log on the head node for more",
        )  # fmt: skip


def _token() -> str:
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return ""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    return file.read_text().strip() if file.is_file() else ""


def _interpreter(raylet: list[str]) -> str | None:
    """The interpreter in the command line of the raylet, which has the command of workers."""
    for word in raylet:
        option, _, value = word.partition("=")
        if option == "--python_worker_command" and value:
            return value.split()[0]
    return None
