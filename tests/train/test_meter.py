"""Time is counted for exactly one part, and the parts sum to the elapsed time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from p5dist.train.meter import DATA, FORWARD, INPUT, PARTS, Meter
from tests.distributed.stages import run_session
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data


class Hand:
    """A clock that is set by hand; as on a GPU, nothing is over until somebody waits for it."""

    time = 0
    over = -1

    def now(self) -> int:
        return self.time

    def passed(self, moment: int) -> bool:
        return moment <= self.over

    def wait(self, moment: int) -> None:
        self.over = moment

    def between(self, first: int, last: int) -> float:
        return float(last - first)


def test_the_innermost_part_counts() -> None:
    clock = Hand()
    meter = Meter(clock)
    clock.time = 1  # other: 1
    with meter.part(DATA):
        clock.time = 3  # data: 2
    with meter.part(FORWARD):
        clock.time = 7  # forward: 4
        meter.enter(INPUT)
        clock.time = 12  # input: 5
        meter.switch("lookup")
        clock.time = 13  # lookup: 1
        meter.leave()
        clock.time = 15  # forward: 2
    clock.time = 18  # other: 3
    seconds, parts = meter.take()
    assert seconds == 18
    told = {"data": 2, "forward": 6, "input_distribution": 5, "lookup": 1, "other": 4}
    assert parts == {name: told.get(name, 0) for name in (*PARTS, "other")}
    with pytest.raises(ZeroDivisionError), meter.part(FORWARD):
        meter.enter(INPUT)
        clock.time = 20
        _ = 1 / 0
    clock.time = 21
    assert meter.take() == (3, dict.fromkeys(PARTS, 0) | {"input_distribution": 2, "other": 1})
    assert meter.current == "other"


def test_every_logged_step_is_split(tmp_path: Path) -> None:
    """On two workers, where ids and rows travel; the parts of a logged interval sum to the time
    since the one before it."""
    validation = "pretrain.validation={every: 10, metric: ndcg@10}"
    job = small_job(tmp_path, "pretrain.log_every=5", validation)
    write_small_data(job)
    for lines in run_distributed(_lines, 2, job):
        assert [line["step"] for line in lines] == [5, 10, 15, 20]
        for before, line in itertools.pairwise(lines):
            parts = line["seconds"]
            whole = line["at"] - before["at"]
            # Between the meter's last moment and ours a busy machine may let others run.
            assert sum(parts.values()) == pytest.approx(whole, rel=0.01, abs=0.25)
            for name in ("input_distribution", "lookup", "output_distribution", "forward",
                         "backward", "optimizer"):  # fmt: skip
                assert parts[name] > 0, name
            assert line["beside"]["batches"] > 0
        assert lines[2]["seconds"]["validation"] > 0, "the one after step 10"
        assert lines[0]["seconds"]["checkpoint"] == 0, "none before step 5"
        assert lines[1]["seconds"]["checkpoint"] > 0, "the one after step 5"


def _lines(job: Any) -> list[dict[str, Any]]:
    return run_session(job, "pretrain")[1]
