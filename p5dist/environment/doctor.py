"""``p5dist doctor``: checks whether this machine can run p5dist, and says what to do if it cannot.

This module imports neither torch nor TorchRec nor Ray into the calling process: checks that may
crash or hang run in another process, with a time limit.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from p5dist.environment.console import console
from p5dist.environment.provenance import machine

FITTING = {
    "torch": ("2.13.0",),
    "torchrec": ("1.8.0",),
    "torchmetrics": ("1.0.3",),
    "ray": ("2.60.0",),
    "pyarrow": ("25.", "26."),
    "s3fs": ("2026.9.",),
}
"""Versions (or prefixes of versions) that were tested together; as in pyproject.toml."""
FBGEMM = "1.8.0"
CUDA_DRIVER = 580
"""Oldest NVIDIA driver for CUDA 13.0, which the CUDA builds of torch 2.13.0 and FBGEMM need."""

_LINES = "the pip lines under 'Installing by hand' in CONTRIBUTING.md"
_SECONDS = 120


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""
    """What to do; empty if there is nothing to do."""


def run(storage: str, as_json: bool) -> int:
    """Print every check; the exit code is 1 if a check failed.

    Args:
        storage: folder or URL that runs will be written to.
        as_json: a JSON list on stdout instead of a table.
    """
    with console.status("Checking this machine (starts Ray and TorchRec once) …"):
        found = checks(storage)
    if as_json:
        print(json.dumps([asdict(check) for check in found], indent=2))
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        table = Table("check", "", "found, and what to do", box=None)
        for check in found:
            fix = f"\n→ {check.fix}" if check.fix else ""
            mark = f"[{colours[check.ok]}]{check.ok}[/]"
            table.add_row(check.name, mark, escape(check.detail + fix))
        Console(highlight=False).print(table)
    return int(any(check.ok == "fail" for check in found))


def checks(job_storage: str | None = None) -> list[Check]:
    """Run all checks; takes about half a minute.

    Args:
        job_storage: folder or URL to write a small file to; left out: ``runs``.
    """
    with ThreadPoolExecutor() as pool:
        slow = [
            pool.submit(_imports),
            pool.submit(_ray),
            pool.submit(_storage, job_storage or "runs"),
        ]
        quick = [_python(), _hardware(), _shared_memory(), *packages(), fbgemm(), driver(), _host()]
        return [*quick, *(check.result() for check in slow)]


def _python() -> Check:
    version = platform.python_version()
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "fail", version, "install Python 3.10 to 3.13 and p5dist in it")
    return Check("python", "ok", f"{version} in {sys.prefix}")


def _hardware() -> Check:
    cores, memory = len(os.sched_getaffinity(0)), machine()["memory_bytes"] / 2**30
    detail = f"{cores} cores, {memory:.1f} GiB of memory"
    if cores < 2 or memory < 4:
        return Check("hardware", "warn", detail, "small jobs only: 2 cores and 4 GiB are better")
    return Check("hardware", "ok", detail)


def _shared_memory() -> Check:
    folder = "/dev/shm"
    free = shutil.disk_usage(folder).free / 2**20 if os.path.isdir(folder) else 0.0  # noqa: PTH112
    detail = f"{free:,.0f} MiB free in {folder}"
    if free < 256:
        fix = "Ray will use the slower disk: in a container, start it with --shm-size=2g"
        return Check("shared memory", "warn", detail, fix)
    return Check("shared memory", "ok", detail)


def packages() -> list[Check]:
    """One check for each package whose version matters."""
    found = []
    for name, fitting in FITTING.items():
        version = _version(name)
        wanted = " or ".join(v + "*" if v.endswith(".") else v for v in fitting)
        if version is None:
            check = Check(name, "fail", "not installed", f"install {wanted} with {_LINES}")
        elif not version.split("+")[0].startswith(fitting):
            fix = f"install {wanted}, which fits the other packages, with {_LINES}"
            check = Check(name, "fail", version, fix)
        else:
            check = Check(name, "ok", version)
        found.append(check)
    return found


def fbgemm() -> Check:
    """Whether exactly one FBGEMM wheel is installed, and whether it fits the installed torch."""
    cpu, cuda = _version("fbgemm-gpu-cpu"), _version("fbgemm-gpu")
    both = "pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu, then install one of them with " + _LINES
    if cpu and cuda:
        detail = f"fbgemm-gpu-cpu {cpu} and fbgemm-gpu {cuda}: one has overwritten the other"
        return Check("fbgemm", "fail", detail, both)
    version = cpu or cuda
    if version is None:
        return Check("fbgemm", "fail", "not installed", "follow " + _LINES)
    detail = f"{version}, {'CPU' if cpu else 'CUDA'} build"
    if version != FBGEMM:
        return Check("fbgemm", "fail", detail, f"install {FBGEMM}, which fits torch, with {_LINES}")
    if cuda and (_version("torch") or "").endswith("+cpu"):
        detail += ", which does not load with the installed CPU build of torch"
        return Check("fbgemm", "fail", detail, both)
    return Check("fbgemm", "ok", detail)


def driver() -> Check:
    """Whether the installed FBGEMM fits the NVIDIA driver, or a machine without a driver."""
    version, cuda = _driver_version(), _version("fbgemm-gpu") is not None
    if version is None:
        if cuda:
            fix = "install the driver, or the CPU set of packages with " + _LINES
            return Check("nvidia driver", "fail", "none, but the CUDA build of FBGEMM", fix)
        return Check("nvidia driver", "ok", "none; the CPU build of FBGEMM is installed")
    detail = version or "installed, but it does not answer"
    if not cuda:
        fix = "GPUs are not used; to use them, install the GPU set of packages with " + _LINES
        known = platform.machine() == "x86_64"  # FBGEMM has no CUDA build elsewhere
        return Check("nvidia driver", "warn" if known else "ok", detail, fix if known else "")
    if not version or int(version.split(".")[0]) < CUDA_DRIVER:
        fix = f"install driver {CUDA_DRIVER} or later; until then set scale.device to cpu"
        return Check("nvidia driver", "warn", detail, fix)
    return Check("nvidia driver", "ok", detail)


def _driver_version() -> str | None:
    """Version of the driver; None: no driver; empty: a driver that does not work."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    text = ctypes.create_string_buffer(80)
    if nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, 80):
        return ""
    nvml.nvmlShutdown()
    return text.value.decode()


def _host() -> Check:
    host = socket.gethostname()
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None)})
    except OSError:
        addresses = []
    detail = f"{host} → {', '.join(addresses) or 'no address'}"
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return Check("host name", "ok", f"{detail}; GLOO_SOCKET_IFNAME is set")
    if all(address.startswith("127.") or address == "::1" for address in addresses):
        fix = (
            "fine on one machine; on several machines, workers cannot reach this machine: give the "
            "host name its network address in /etc/hosts, or set GLOO_SOCKET_IFNAME to the network "
            "interface"
        )
        return Check("host name", "warn", detail, fix)
    return Check("host name", "ok", detail)


def _imports() -> Check:
    error = _try("import torch, fbgemm_gpu, torchrec")
    if error:
        return Check("import torchrec", "fail", error, f"correct the checks above with {_LINES}")
    return Check("import torchrec", "ok", "torch, FBGEMM and TorchRec load")


def _ray() -> Check:
    error = _try(
        "import ray\n"
        "from p5dist.config.scale import Scale\n"
        "from p5dist.environment.ray_session import connect\n"
        "connect(Scale())\n"
        "assert ray.get(ray.remote(lambda: 1).remote()) == 1\n"
        "ray.shutdown()"
    )
    if error:
        fix = "read /tmp/ray/session_latest/logs; usual causes: a full disk, a loopback firewall"
        return Check("start ray", "fail", error, fix)
    return Check("start ray", "ok", "a cluster on this machine starts and runs a task")


def _storage(url: str) -> Check:
    error = _try(
        "import sys, uuid\n"
        "from p5dist.storage import Folder\n"
        "file = Folder.open(sys.argv[1]).make() / f'.p5dist-doctor-{uuid.uuid4().hex}'\n"
        "file.write_text('p5dist')\n"
        "assert file.read_bytes() == b'p5dist'\n"
        "file.remove()",
        url,
    )
    if error:
        fix = "correct the path or bucket, its permissions and credentials, or pass --storage"
        return Check("storage", "fail", f"{url}: {error}", fix)
    return Check("storage", "ok", f"{url}: written, read and deleted a file")


def _try(code: str, *args: str) -> str | None:
    """Run Python code in a separate process: its error on one line, None if it succeeded."""
    command = [sys.executable, "-c", code, *args]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # The error is the last line without indent; errors of p5dist continue with indented lines.
    last = max((i for i, line in enumerate(lines) if not line[0].isspace()), default=0)
    return "; ".join(map(str.strip, lines[last:])) or f"ended with exit code {done.returncode}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
