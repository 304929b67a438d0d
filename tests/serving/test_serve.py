"""``p5dist serve`` on Ray Serve: under load, a replica is killed and another run is swapped in, and
no request fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p5dist.config import dump_job
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

pytest.importorskip("ray.serve")
COMMAND = [sys.executable, "-m", "p5dist.cli.main", "serve"]
BODY = json.dumps({"histories": [{"items": ["i3", "i9"]}], "k": 5}).encode()


def trained_run(folder: Path, seed: int) -> str:
    job = small_job(folder, "finetune={}", "model.inputs={rating: false}", f"seed={seed}")
    run = write_small_data(job)
    run.job.write_text(dump_job(job))
    run_distributed(train, 1, job, "pretrain")
    return str(run.root)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [trained_run(tmp_path_factory.mktemp("run"), seed) for seed in (1, 2)]


@pytest.fixture
def url(runs: list[str]) -> Iterator[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(
        [*COMMAND, runs[0], "--port", str(port), "--replicas", "2", "--cpus", "0.5"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "is served at" in line, line
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def ask(url: str) -> Any:
    request = urllib.request.Request(f"{url}/recommend", BODY, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


class Load:
    """Asks without end, from some threads."""

    def __init__(self, url: str, threads: int) -> None:
        self.answers: list[Any] = []
        self.failures: list[str] = []
        self._url, self._ended = url, threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Until so many further requests are answered."""
        wanted, end = len(self.answers) + more, time.monotonic() + 120
        while len(self.answers) < wanted and not self.failures and time.monotonic() < end:
            time.sleep(0.05)

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                self.answers.append(ask(self._url))
            except Exception as e:
                self.failures.append(repr(e))


@pytest.mark.slow
def test_no_request_is_lost(url: str, runs: list[str]) -> None:
    with Load(url, 4) as load:
        load.wait_for(50)
        os.kill(a_replica(), signal.SIGKILL)
        load.wait_for(300)
        done = subprocess.run(
            [*COMMAND, runs[1], "--port", url.rpartition(":")[2], "--replicas", "2", "--cpus",
             "0.5", "--address", "auto"],
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        load.wait_for(100)
    assert not load.failures, load.failures[:3]
    served = [answer["run"] for answer in load.answers]
    assert served[0] == runs[0] and served[-1] == runs[1]
    for run in runs:  # the last bits of a score depend on the requests answered together
        found = [
            [item["item_id"] for item in answer["lists"][0]]
            for answer in load.answers
            if answer["run"] == run
        ]
        assert len(found) > 50 and all(one == found[0] for one in found)


def a_replica() -> int:
    """The process of a replica."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    found = [line.split()[0] for line in listed.splitlines() if "ServeReplica:p5dist" in line]
    return int(found[0])
