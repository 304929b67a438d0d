"""Derived numbers of the benchmarks."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a program, which finds its neighbours as it does when it is run."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_rates_of_a_stage_leave_out_its_first_steps(module: Any, tmp_path: Path) -> None:
    stage = tmp_path / "bench" / "pretrain"
    stage.mkdir(parents=True)
    lines = [
        {"step": 5, "samples_per_second": 1.0, "seconds": {"data": 90.0, "forward": 10.0}},
        {"step": 10, "samples_per_second": 50.0, "seconds": {"data": 1.0, "forward": 9.0}},
        {"step": 15, "samples_per_second": 100.0, "seconds": {"data": 2.0, "forward": 3.0}},
    ]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = {"storage": str(tmp_path), "name": "bench", "pretrain": {"log_every": 5}}
    found = module("workload").trained(job, steps_left_out=5)
    # 50 · 10 + 100 · 5 histories in 15 s and 10 steps; medians of two lines of five steps.
    assert found == pytest.approx(
        {"rate": 1000 / 15, "step": 1.5, "seconds data": 0.3, "seconds forward": 1.2}
    )


def test_efficiency_is_against_one_worker_of_the_same_turn(module: Any) -> None:
    lines = [
        {"mode": mode, "turn": turn, "workers": workers, "rate": rate}
        for mode, turn, workers, rate in (
            ("weak", 1, 1, 100.0), ("weak", 1, 4, 200.0), ("weak", 2, 4, 400.0),
            ("weak", 2, 1, 50.0), ("strong", 1, 1, 80.0), ("strong", 1, 4, 80.0),
        )
    ]  # fmt: skip
    module("scaling").add_efficiency(lines)
    assert [line["efficiency"] for line in lines] == [1.0, 0.5, 2.0, 1.0, 1.0, 0.25]


def test_bytes_that_lookup_and_update_move(module: Any) -> None:
    embedding = module("embedding")
    # Three ids of 8 bytes, their rows of four float32, and two vectors that come out.
    assert embedding.lookup_bytes(ids=3, outputs=2, dim=4) == 24 + 3 * 16 + 2 * 16
    # The ids, two gradients, and two rows with one momentum each read and written.
    assert embedding.update_bytes(3, 2, 2, 4) == 24 + 2 * 16 + 2 * 2 * (16 + 4)


def test_the_clock_counts_the_steps_after_the_warm_up(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 10.0, 11.0, 13.0, 17.0])  # begin, then the end of each step
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = module("train_steps").Clock(warm_up=2, steps=2)
    for targets in (100, 100, 7, 8):
        assert not clock.over
        clock.step(targets)
    assert clock.over
    clock.show(items=5)
    assert json.loads(capsys.readouterr().out) == {"targets": 15, "seconds": 6.0, "items": 5}


def test_a_result_is_json_lines_a_table_and_a_picture_of_every_run(
    module: Any, tmp_path: Path
) -> None:
    runs = {
        "fast": [{"rate": 2.0, "seconds": 1.0}, {"rate": 4.0, "seconds": 0.5}],
        "slow": [{"rate": 1.0, "seconds": 2.0}],
    }
    result = {"question": "how fast", "date": "2026-01-02T00:00", "better": {"rate": "higher"}}
    module("outcome").write("tool", {**result, "runs": runs}, "a table\n", tmp_path)
    found = {place.suffix: place.read_text() for place in tmp_path.iterdir()}
    assert found.keys() == {".json", ".jsonl", ".md", ".svg"}
    assert json.loads(found[".json"])["runs"] == runs
    assert [json.loads(line) for line in found[".jsonl"].splitlines()] == [
        {"measured": "fast", "turn": 1, "rate": 2.0, "seconds": 1.0},
        {"measured": "fast", "turn": 2, "rate": 4.0, "seconds": 0.5},
        {"measured": "slow", "turn": 1, "rate": 1.0, "seconds": 2.0},
    ]
    picture = next(place.name for place in tmp_path.glob("*.svg"))
    assert found[".md"].startswith("a table\n") and f"({picture})" in found[".md"]
    assert "higher is better" in found[".svg"] and "seconds" not in found[".svg"]


def test_a_result_of_which_no_number_is_better_high_or_low_has_no_picture(
    module: Any, tmp_path: Path
) -> None:
    result = {"question": "how good", "date": "2026-01-02T00:00", "runs": [{"score": 1.0}]}
    module("outcome").write("tool", result, "a table\n", tmp_path)
    assert {place.suffix for place in tmp_path.iterdir()} == {".json", ".jsonl", ".md"}
    assert next(tmp_path.glob("*.md")).read_text() == "a table\n"
