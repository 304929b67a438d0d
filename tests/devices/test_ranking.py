"""Ranking on a device: no operation mixes devices, and the results are those of the CPU."""

from __future__ import annotations

from pathlib import Path

from tests.devices.ranking_there import results
from tests.processes import run_distributed


def test_ranks_and_lists_are_those_of_the_cpu(tmp_path: Path) -> None:
    (found,) = run_distributed(results, 1, tmp_path)
    assert len(found["here"]) == 8
    for here, there in zip(found["here"], found["there"], strict=True):
        assert here == there
    assert "not on the device" in found["mistake"]
