"""The kernels against attention in rectangles, values and all gradients; and compiled for a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.attention.interpreted import CASES

ROOT = Path(__file__).parents[3]


def printed_by(module: str, **environment: str) -> dict[str, float]:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.models.attention.{module}"],
        env=os.environ | environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def differences() -> dict[str, float]:
    return printed_by("interpreted", TRITON_INTERPRET="1")


@pytest.mark.parametrize("name", CASES)
def test_kernels_and_rectangles_agree(name: str, differences: dict[str, float]) -> None:
    assert differences[name] < 1e-4


def test_kernels_compile_for_an_h100_and_fit_its_shared_memory() -> None:
    shared = printed_by("compiled")
    assert len(shared) == 6
    assert max(shared.values()) <= 227 * 1024
