"""Leave-one-out over events: the last purchases are held out, and what follows them is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from p5dist.config import RunConfig
from p5dist.config.splits import LeaveOneOut
from p5dist.errors import ConfigError
from p5dist.pipeline import run_job
from p5dist.prepare.split import AFTER_TEST, split_codes
from tests.prepare.reference import in_seconds, written
from tests.prepare.runs import COLUMNS, make_job, prepared


def test_codes_by_hand() -> None:
    by_hand = {
        "vvvv": [0, 0, 0, 0],
        "vbv": [0, 0, 0],  # one purchase trains
        "bvb": [0, 0, 0],  # nothing is before the first of the two
        "vbvvbvv": [0, 1, 1, 1, 2, -1, -1],
        "vbb": [0, 1, 2],
        "bvbb": [0, 0, 1, 2],
        "": [],
        "vbbvbv": [0, 0, 1, 1, 2, -1],
    }
    lengths = np.array([len(text) for text in by_hand])
    held_out = np.array([letter == "b" for text in by_hand for letter in text])
    rows: Any = range(len(held_out))
    found = split_codes(LeaveOneOut(events=("b",)), lengths, rows, None, held_out)
    assert AFTER_TEST == -1
    assert found.tolist() == [code for codes in by_hand.values() for code in codes]


def purchases(tmp: Path, text: dict[str, str], **prepare: Any) -> Any:
    """A job over a log with the interactions of each user at the seconds 1, 2, …: a letter is the
    event, the item is the letter and the second."""
    lines = [
        f"{user},{event}{at},3,{at},{event}"
        for user, events in text.items()
        for at, event in enumerate(events, 1)
    ]
    log = tmp / "log.csv"
    log.write_text("user,item,rating,timestamp,event\n" + "\n".join(lines) + "\n")
    source = {"files": str(log), "columns": {**COLUMNS, "event": "event"}}
    split = {"kind": "leave_one_out", "events": ["b"]}
    return make_job(tmp, source, **{"split": split, "vocabulary": {"of": "all"}, **prepare})


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    manifest, folder = prepared(purchases(tmp_path, {"x": "vbvbv", "y": "vvb"}))
    assert in_seconds(written(folder)) == {
        "x": [[("v1", 1, 3.0, "train"), ("b2", 2, 3.0, "validation"), ("v3", 3, 3.0, "validation"),
               ("b4", 4, 3.0, "test")]],
        "y": [[("v1", 1, 3.0, "train"), ("v2", 2, 3.0, "train"), ("b3", 3, 3.0, "train")]],
    }  # fmt: skip
    assert manifest.rows_rejected == {"after_test": 1}
    assert "the last b of a history is test" in manifest.split


def test_an_event_that_the_log_lacks_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split: dict[str, Any] = {"kind": "leave_one_out", "events": ["buy"]}
    with pytest.raises(ConfigError, match=r"split.events(.|\n)*buy(.|\n)*b, v"):
        prepared(purchases(tmp_path, {"x": "vbvb"}, split=split))
    split["events"] = ["b", "returned"]
    prepared(purchases(tmp_path, {"x": "vbvb"}, split=split))
    assert "'returned' of prepare.split.events" in capsys.readouterr().err


def test_a_dropped_event_cannot_be_held_out(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"whose interactions prepare\.events drops"):
        purchases(tmp_path, {"x": "vbvb"}, events={"b": 0})
    with pytest.raises(ValidationError, match=r"split\.events needs source\.columns\.event"):
        make_job(tmp_path, {"files": "x"}, split={"kind": "leave_one_out", "events": ["b"]})


def test_events_of_targets_are_checked_before_anything_is_trained(tmp_path: Path) -> None:
    job = purchases(tmp_path, dict.fromkeys("xyz", "vvvbvb"))
    wrong = job.model_dump(mode="json") | {
        "pretrain": {"steps": 1, "batch_size": 64}, "evaluate": {"events": ["buys"]},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"evaluate\.events(.|\n)*buys"):
        run_job(RunConfig.model_validate(wrong))
    assert not (tmp_path / "run/pretrain").exists()
    without = {"source": {"files": "x", "columns": COLUMNS}}
    base = {"name": "run", "prepare": without, "pretrain": {"steps": 1}}
    training = {"steps": 1, "validation": {"every": 1, "events": ["b"]}}
    for section in ({"evaluate": {"events": ["b"]}}, {"pretrain": training}):
        with pytest.raises(ValidationError, match="names events, but prepare"):
            RunConfig.model_validate(base | section)
