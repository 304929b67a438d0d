"""A search that is killed, and started again, finds the better settings by validation alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from p5dist.config import load_job
from tests.end_to_end.test_run import write_log

JOB = """
name: tiny
storage: {folder}/runs
prepare:
  source:
    files: {folder}/log.csv
    columns: {{user: who, item: what, timestamp: when, rating: stars}}
feed: {{lanes: 4, max_length: 10}}
model: {{dim: 16, encoder: {{layers: 1, heads: 2}}}}
pretrain: {{steps: 60, batch_size: 16, checkpoint: {{every: 10}}, validation: {{every: 6}}}}
scale: {{workers: 1}}
"""
RANGES = ["pretrain.tables.lr=choice(1e-9,0.05)", "pretrain.dense.lr=choice(1e-9,0.001)"]


def command(folder: Path) -> list[str]:
    own = [sys.executable, "-m", "p5dist.cli.main", "tune", str(folder / "job.yaml")]
    return [*own, *RANGES, "--trials", "4", "--json"]


def starts(folder: Path) -> dict[str, list[Any]]:
    """By trial that is complete, the starts of its workers."""
    found = {}
    for stage in folder.glob("runs/tiny-trial-*/pretrain"):
        if (stage / "result.json").exists():
            found[stage.parent.name] = json.loads((stage / "starts.json").read_text())
    return found


@pytest.mark.slow
def test_a_killed_search_goes_on_and_finds_the_better_settings(tmp_path: Path) -> None:
    write_log(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB.format(folder=tmp_path))
    first = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 900
    try:
        while not (done := starts(tmp_path)):
            assert time.monotonic() < end and first.poll() is None, "no trial became complete"
            time.sleep(0.5)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()

    again = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    now = starts(tmp_path)
    assert {name: now[name] for name in done} == done, "a complete trial was trained again"
    own = {"pretrain.tables.lr": 0.05, "pretrain.dense.lr": 0.001}
    assert result["job_as_it_is"]["settings"] == own
    assert result["best"]["settings"] == own
    assert result["best"]["complete"] and result["best"]["best"] > 0.5
    assert [trial["best"] for trial in result["trials"]] == sorted(
        (trial["best"] for trial in result["trials"]), reverse=True
    )
    for trial in result["trials"]:
        assert trial["error"] is None
        folder = tmp_path / "runs" / trial["run"]
        assert not (folder / "prepare").exists() and not (folder / "evaluate").exists()
    best = load_job(tmp_path / "runs/tiny-tune/best.yaml")
    assert best == load_job(tmp_path / "job.yaml", result["overrides"])
    assert (tmp_path / "runs/tiny-tune/trials.svg").read_text().startswith("<?xml")
