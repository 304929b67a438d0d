"""p5dist as ``pip install p5dist`` has it, without PyTorch and Ray: jobs are written and submitted;
a command that trains says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from p5dist.config import dump_job
from tests.small_data import small_job, write_small_data
from tests.submit.fake_server import FakeServer, running

JOB = """
name: shop
storage: s3://bucket/runs
prepare: {source: {files: s3://bucket/log.csv}}
pretrain: {epochs: 1}
"""
WITHOUT = """
import sys
for name in ("torch", "fbgemm_gpu", "torchrec", "ray", "safetensors", "tensorboard"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from p5dist.cli.main import main
main()
"""


def p5dist(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip


def test_jobs_are_checked_submitted_and_listed(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(JOB)
    done = p5dist(tmp_path, "config", "shop.yaml")
    assert done.returncode == 0 and "epochs: 1" in done.stdout, done.stderr
    with running(FakeServer()) as server:
        done = p5dist(tmp_path, "submit", "shop.yaml", "--address", server.address)
        assert done.returncode == 0, done.stderr
        assert len(server.jobs) == 1
        done = p5dist(tmp_path, "jobs", "list", "--address", server.address)
        assert done.returncode == 0 and "shop-" in done.stdout, done.stderr


def test_training_says_what_to_install(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    write_small_data(job)
    (tmp_path / "small.yaml").write_text(dump_job(job))
    done = p5dist(tmp_path, "pretrain", "small.yaml")
    assert done.returncode == 1
    assert "InstallError: this command needs the packages that train" in done.stderr
    assert "pip install 'p5dist[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr
