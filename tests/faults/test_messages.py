"""Messages to the user when workers fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from p5dist.config import dump_job
from tests.faults.failing import STEP
from tests.small_data import small_job, write_small_data


@pytest.mark.slow
def test_a_killed_worker_and_an_error_are_a_few_lines(tmp_path: Path) -> None:
    job = small_job(
        tmp_path, "scale.workers=2", "scale.max_failures=1", "pretrain.checkpoint.every=3",
        "pretrain.profile={start: 1, steps: 2}",
    )  # fmt: skip
    stage = write_small_data(job).training("pretrain")
    file = tmp_path / "job.yaml"
    file.write_text(dump_job(job))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.failing", "pretrain", str(file), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout == "", "stdout is for the result"
    lines = done.stderr.splitlines()
    assert len(lines) < 15, done.stderr
    logged = [
        m.groups() for m in re.finditer(r"^[-\d]+ [:,\d]+ (\w+) small: (.*)$", done.stderr, re.M)
    ]
    levels, texts = zip(*logged, strict=True)
    assert texts[:2] == ("1/1 pretrain started", "pretrain: 2 workers started at step 0 of 20")
    lost = "pretrain: worker 1 lost: its process ended (killed, out of memory, or crashed)"
    failed = "pretrain: worker 1 failed: RuntimeError: planted in the loop"
    assert [t for t, level in zip(texts, levels, strict=True) if level == "WARNING"] == [
        lost,
        failed,
    ]
    assert re.match(r"pretrain: checkpoint 3 complete in \d+\.\d\d s", texts[2])
    (again,) = re.findall(r"2 workers started at step ([36]) of 20", "\n".join(texts[2:]))
    assert int(again) < STEP
    assert lines[-5:-2] == [
        "TrainingError: the workers failed more often than allowed",
        f"  where: {stage / 'errors.log'}",
        "  value: worker 1 failed: RuntimeError: planted in the loop",
    ]
    traces = (stage / "errors.log").read_bytes().decode()
    assert lost.removeprefix("pretrain: ") in traces
    assert 'raise RuntimeError("planted in the loop")' in traces
    assert traces.count("Traceback") >= 1
    names = (stage / "profile").children()
    assert "step-00000001.json.gz" in names and "step-00000001.txt" in names
