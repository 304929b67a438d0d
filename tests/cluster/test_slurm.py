"""The Slurm script with stand-ins for srun, scontrol, ray and p5dist that are real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p5dist.config import load_job, parse_job
from p5dist.submit.render import render

EXAMPLES = Path(__file__).parents[2] / "cluster" / "examples"

SRUN = """#!/bin/bash
echo "srun $*" >> "$LOG"
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$LOG"
[ "$1 $2" = "show hostnames" ] && printf 'n1\\nn2\\nn3\\n'
exit 0
"""
RAY = """#!/bin/bash
echo "ray $* token=${#RAY_AUTH_TOKEN}" >> "$LOG"
echo $$ >> "$LOG.ray"
exec sleep 60
"""
P5DIST = """#!/bin/bash
echo "p5dist $*" >> "$LOG"
cp "$2" "$LOG.job"
trap 'echo "p5dist saves" >> "$LOG"; exit 143' TERM
[ -n "$ENDS_WITH" ] && exit "$ENDS_WITH"
while true; do sleep 0.1; done
"""
PYTHON = """#!/bin/bash
echo "python $*" >> "$LOG"
until [ "$(grep -c '^ray start' "$LOG")" = 2 ]; do sleep 0.02; done
"""
HOSTNAME = "#!/bin/bash\necho 10.0.0.1 10.1.0.1\n"


class Slurm:
    """A machine where the script runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        (folder / "bin").mkdir()
        for name, text in {
            "srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "p5dist": P5DIST, "python": PYTHON,
            "hostname": HOSTNAME,
        }.items():  # fmt: skip
            path = folder / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        self.script = folder / "job.sh"
        self.script.write_text(render("slurm", load_job(EXAMPLES / "shop.yaml")))

    def start(self, ends_with: str = "") -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "LOG": str(self.log),
            "ENDS_WITH": ends_with, "SLURM_SUBMIT_DIR": str(self.folder), "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "7",
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", str(self.script)], env=environment, stderr=subprocess.PIPE, text=True
        )

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 20
        while not any(line.startswith(text) for line in self.lines()):
            assert time.monotonic() < end, f"no '{text}' in {self.lines()}"
            time.sleep(0.02)

    def ray_processes(self) -> list[int]:
        place = Path(f"{self.log}.ray")
        found = [int(line) for line in place.read_text().split()] if place.exists() else []
        return [pid for pid in found if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    machine = Slurm(tmp_path)
    yield machine
    for pid in machine.ray_processes():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("code", ["0", "1"])
def test_head_workers_driver_and_the_exit_code(slurm: Slurm, code: str) -> None:
    process = slurm.start(ends_with=code)
    assert process.wait(30) == int(code), process.stderr and process.stderr.read()
    log = slurm.lines()
    head, workers = sorted(line for line in log if line.startswith("ray start"))[::-1]
    assert "--head" in head and "--node-ip-address=10.0.0.1 --port=24711" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--address=10.0.0.1:24711" in workers
    assert head.endswith("token=64") and workers.endswith("token=64")
    assert any("--nodes=2 --ntasks=2 --exclude=n1 ray" in line for line in log)
    assert "python -m p5dist.submit.wait_for_nodes 10.0.0.1:24711 3" in log
    job = slurm.folder / "p5dist-4711.yaml"
    assert f"p5dist run {job} scale.address=10.0.0.1:24711" in log
    assert parse_job(Path(f"{slurm.log}.job").read_text()) == load_job(EXAMPLES / "shop.yaml")
    assert not job.exists()
    assert not any("requeue" in line for line in log)
    time.sleep(0.2)
    assert not slurm.ray_processes()


def test_a_job_that_is_taken_off_saves_and_is_queued_again(slurm: Slurm) -> None:
    process = slurm.start()
    slurm.wait_for("p5dist run")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert "p5dist saves" in slurm.lines()
    assert slurm.lines()[-1] == "scontrol requeue 4711"
