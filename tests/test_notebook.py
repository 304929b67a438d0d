"""The notebook of the documentation runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_quickstart_runs(ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    names: dict[str, Any] = {}
    for code in codes:
        exec(compile(code, str(NOTEBOOK), "exec"), names)
    assert "items that the run does not know" in capsys.readouterr().out
    assert names["results"]["pretrain"]["steps"] == 60
    run = names["run"]
    assert run.metrics["ndcg@10"] > 1.5 * run.evaluation["baselines"]["popularity"]["ndcg@10"]
    assert "film5" in names["table"]["item_id"].to_pylist()[:3]
