"""A Ray cluster that does not answer or start; and the addresses of a local cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import ray

from p5dist.config.scale import Scale
from p5dist.environment.ray_session import connect
from p5dist.errors import ResourceError
from tests.s3 import free_port


@pytest.mark.parametrize(
    ("address", "failure"),
    [
        ("127.0.0.1:{port}", None),
        ("ray://127.0.0.1:{port}", None),
        ("auto", TimeoutError("timed out after 5 s\nat a place in Ray")),
        (None, RuntimeError("\nThe current node timed out during startup.\nmore")),
    ],
    ids=["nobody", "nobody, by client", "a time-out", "none starts here"],
)
def test_it_is_one_error(
    address: str | None, failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    if address is not None:
        address = address.format(port=free_port())
    if failure is not None:

        def init(**_: object) -> None:
            raise failure

        monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ResourceError) as caught:
        connect(Scale(address=address))
    message = str(caught.value)
    assert len(message.splitlines()) <= 4, message
    if address is not None:
        assert address in message
    else:
        assert "timed out during startup" in message


SESSION = """
from p5dist.config.scale import Scale
from p5dist.environment.ray_session import connect
connect(Scale())
import ray
ray.get(ray.remote(lambda: 1).remote())
print("ready", flush=True)
input()
"""


def test_what_a_session_starts_listens_on_loopback_only() -> None:
    mark = uuid.uuid4().hex
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", SESSION], env=env | {"MARK": mark}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None
        found = listening(f"MARK={mark}")
        process.stdin.write("\n")
    assert len(found) > 4  # GCS, raylet, agents, workers
    # 127.0.0.1, also as an address of IPv6, in the byte order of /proc.
    assert {address for address in found if not address.endswith("0100007F")} == set()


def listening(mark: str) -> list[str]:
    """Hexadecimal addresses on which processes with ``mark`` in their environment listen."""
    inodes: dict[str, str] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                inodes[f"socket:[{fields[9]}]"] = fields[1].split(":")[0]
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes():
                links = [str(link.readlink()) for link in (place / "fd").iterdir()]
                found += [inodes[link] for link in links if link in inodes]
        except OSError:
            continue  # it has ended
    return found
