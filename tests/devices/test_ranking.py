"""Scoring and ranking on a device: no operation mixes devices, and the results are those of the
CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.devices.ranking_there import results, scored
from tests.processes import run_distributed


def test_ranks_and_lists_are_those_of_the_cpu(tmp_path: Path) -> None:
    (found,) = run_distributed(results, 1, tmp_path)
    assert len(found["here"]) == 10
    for here, there in zip(found["here"], found["there"], strict=True):
        assert here == there
    assert "not on the device" in found["mistake"]


def test_vectors_and_predictions_are_those_of_the_cpu(tmp_path: Path) -> None:
    (found,) = run_distributed(scored, 1, tmp_path)
    assert set(found) == {"causal", "masked", "skip_gram", "rating"}
    for here, there in found.values():
        for one, other in zip(here, there, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
