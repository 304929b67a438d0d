"""A trace has the requested steps and their operations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from p5dist.config.train import Profile
from p5dist.observe.events import Closed, Trained
from p5dist.storage import Folder
from p5dist.train.callbacks.profiler import StepProfiler
from tests.s3 import Store
from tests.small_data import small_job

ROWS = np.zeros(0, np.int64)


def run(place: Folder, config: Profile, begin: int, steps: int) -> None:
    """Step s multiplies s + 1 times."""
    profiler = StepProfiler(config, place, begin, torch.device("cpu"))
    for step in range(begin, begin + steps):
        for _ in range(step + 1):
            torch.ones(2, 2) @ torch.ones(2, 2)
        profiler.on(Trained(step, ROWS))
    profiler.on(Closed())


def products(place: Folder, name: str) -> int:
    trace = json.loads(gzip.decompress((place / f"profile/{name}.json.gz").read_bytes()))
    return sum(event.get("name") == "aten::mm" for event in trace["traceEvents"])


@pytest.mark.parametrize(
    ("config", "begin", "steps", "name", "expected"),
    [
        (Profile(start=2, steps=3), 0, 9, "step-00000002", 3 + 4 + 5),
        (Profile(start=0, steps=1), 4, 9, "step-00000004", 5),
        (Profile(start=1, steps=100), 0, 3, "step-00000001", 2 + 3),
    ],
    ids=["in the middle", "of a run that continues", "the stage ends earlier"],
)
def test_the_steps_that_are_traced(
    tmp_path: Path, config: Profile, begin: int, steps: int, name: str, expected: int
) -> None:
    place = Folder.open(str(tmp_path))
    run(place, config, begin, steps)
    assert products(place, name) == expected
    assert (place / "profile").children() == [f"{name}.json.gz", f"{name}.txt"]
    assert "aten::mm" in (place / f"profile/{name}.txt").read_bytes().decode()


def test_a_stage_that_ends_before_it(tmp_path: Path) -> None:
    place = Folder.open(str(tmp_path))
    run(place, Profile(start=20), 0, 3)
    assert not (place / "profile").exists()


def test_a_trace_on_object_storage(s3: Store) -> None:
    place = Folder.open(f"s3://{s3.bucket}/runs/small/pretrain")
    run(place, Profile(start=0, steps=1), 0, 1)
    assert products(place, "step-00000000") == 1


def test_a_trace_does_not_make_another_job(tmp_path: Path) -> None:
    plain = small_job(tmp_path)
    traced = small_job(tmp_path, "pretrain.profile={steps: 3}")
    assert traced.pretrain is not None
    assert traced.pretrain.profile == Profile(steps=3, start=20)
    assert traced.fingerprint("pretrain") == plain.fingerprint("pretrain")
