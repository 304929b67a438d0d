"""A job in a separate process, as a user starts it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from p5dist.config import RunConfig, dump_job, load_job
from p5dist.observe.metrics_log import read_metrics
from p5dist.storage import Folder, RunFolder
from tests.distributed.heads import curves
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data


def losses_without_ray(job: RunConfig, folder: Path) -> list[float]:
    """Of all pre-training steps of a prepared job, from one process that reads the shards.

    Args:
        folder: gets a copy of the prepared data, where nothing is trained yet.
    """
    prepared = Path(RunFolder.of(job.storage, job.name).prepare.path)
    job = job.model_copy(update={"storage": str(folder)})
    shutil.copytree(prepared, RunFolder.of(job.storage, job.name).prepare.path)
    (found,) = run_distributed(curves, 1, {"": (job, "pretrain")})
    losses: list[float] = found[""][0]
    return losses


class JobProcess:
    """``p5dist COMMAND JOB.yaml``, such as ``run`` or ``pretrain``.

    Args:
        file: of the job; what the command prints is beside it.
    """

    def __init__(self, command: str, file: Path) -> None:
        self.command, self.file = command, file
        self.job: RunConfig = load_job(file)
        self.run = RunFolder.of(self.job.storage, self.job.name)
        self.log = file.parent / "output.txt"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def stage(self) -> Folder:
        return self.run.training("pretrain")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "p5dist.cli.main", self.command, str(self.file)],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float = 300) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def wait_for_step(self, step: int, *, checkpoint: bool = True, seconds: float = 200) -> int:
        """Until ``step`` is logged (and a checkpoint is there); the last logged step."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            last = self.last_step()
            if last >= step and (not checkpoint or self.checkpoints()):
                return last
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"step {step} was not reached:\n{self.log.read_text()}")

    def last_step(self) -> int:
        return max((m["step"] for m in read_metrics(self.stage)), default=0)

    def checkpoints(self) -> list[int]:
        markers = Path(self.stage.path).glob("checkpoints/step-*/complete.json")
        return sorted(int(marker.parent.name.removeprefix("step-")) for marker in markers)

    def losses(self) -> list[tuple[int, float]]:
        return [(m["step"], m["loss"]) for m in read_metrics(self.stage)]

    def workers(self) -> list[psutil.Process]:
        """Its Ray Train workers, oldest first."""
        assert self.process is not None
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                    found.append(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda p: p.create_time())

    def family(self) -> list[psutil.Process]:
        """The process and everything below it, but for agents of Ray: they look for their parent
        now and then, and may outlive it by minutes."""
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        below = own.children(recursive=True)
        return [own, *(p for p in below if "Agent" not in _name(p))]


def small_job_process(folder: Path, *overrides: str) -> JobProcess:
    """The pre-training of a small job, whose prepared data is written; all in ``folder``."""
    job = small_job(folder, *overrides)
    if not RunFolder.of(job.storage, job.name).prepare.exists():
        write_small_data(job)
    file = folder / "job.yaml"
    file.write_text(dump_job(job))
    return JobProcess("pretrain", file)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def leftovers(stage: Folder) -> list[str]:
    """What an interrupted save would leave behind: temporary files, folders without a marker."""
    root = Path(stage.path)
    found = [str(p) for p in root.rglob(".*.tmp")]
    found += [str(p) for p in root.glob("checkpoints/step-*") if not (p / "complete.json").exists()]
    return found
