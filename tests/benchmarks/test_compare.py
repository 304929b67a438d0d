"""Regressions that compare.py finds in results made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parent.parent.parent / "benchmarks" / "compare.py"


def compare(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> tuple[int, str, str]:
    """Exit code, table, and what went wrong."""
    places = folder / "old.json", folder / "new.json"
    for place, result in zip(places, (old, new), strict=True):
        place.write_text(json.dumps(result))
    command = [sys.executable, str(PROGRAM), *map(str, places)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def result(rates: list[float], seconds: list[float], **more: Any) -> dict[str, Any]:
    runs = [{"rate": r, "seconds": s, "note": "x"} for r, s in zip(rates, seconds, strict=True)]
    return {
        "question": "hand", "settings": {"rows": 1}, "runs": {"tool": runs},
        "better": {"rate": "higher", "seconds": "lower"}, **more,
    }  # fmt: skip


def test_a_change_within_the_spread_of_the_runs_is_noise(tmp_path: Path) -> None:
    old = result([100, 90, 110], [1.0, 1.2, 1.1])
    code, table, _ = compare(tmp_path, old, result([80, 91, 85], [1.2, 1.5, 1.3]))
    assert code == 0
    # Medians 100 → 85; 1.1 → 1.3.
    assert "| tool: rate | 100 (90 to 110) | 85 (80 to 91) | -15.0% | same |" in table
    assert "| tool: seconds | 1.1 (1 to 1.2) | 1.3 (1.2 to 1.5) | +18.2% | same |" in table
    assert "note" not in table


def test_a_regression_beyond_it_exits_with_1_in_either_direction(tmp_path: Path) -> None:
    old = result([100, 90, 110], [1.0, 1.2, 1.1])
    code, table, _ = compare(tmp_path, old, result([80, 89, 85], [0.9, 0.8, 0.7]))
    assert code == 1
    assert "| -15.0% | worse |" in table and "| -27.3% | better |" in table
    code, table, _ = compare(tmp_path, old, result([120, 111, 130], [1.3, 1.4, 1.21]))
    assert code == 1
    assert "| +20.0% | better |" in table and "| +18.2% | worse |" in table


def test_two_runs_tell_nothing(tmp_path: Path) -> None:
    code, table, _ = compare(tmp_path, result([100, 90], [1, 1]), result([1, 2], [9, 9]))
    assert code == 0
    assert table.count("too few runs") == 2


def test_runs_need_no_names_and_older_results_no_directions(tmp_path: Path) -> None:
    runs = [{"total": seconds} for seconds in (5.0, 6.0, 7.0)]
    old = {"question": "plain", "runs": runs}
    new = {"question": "plain", "runs": [{"total": 8.0}] * 3, "better": {"total": "lower"}}
    code, table, _ = compare(tmp_path, old, new)
    assert code == 1
    assert "| total | 6 (5 to 7) | 8 (8 to 8) | +33.3% | worse |" in table


def test_what_cannot_be_compared_exits_with_2(tmp_path: Path) -> None:
    one = result([1, 2, 3], [1, 2, 3])
    code, _, error = compare(tmp_path, one, {**one, "settings": {"rows": 2}})
    assert code == 2 and "settings differs: {'rows': 1} and {'rows': 2}" in error
    code, _, error = compare(tmp_path, one, {**one, "question": "another"})
    assert code == 2 and "question differs" in error
    code, _, error = compare(tmp_path, one, {**one, "better": {}})
    assert code == 2 and "no number in common" in error


def test_another_machine_is_said(tmp_path: Path) -> None:
    one = result([1, 2, 3], [1, 2, 3], machine={"cores": 2})
    code, table, _ = compare(tmp_path, one, {**one, "machine": {"cores": 4}})
    assert code == 0 and "machine differs, which may be the reason" in table
