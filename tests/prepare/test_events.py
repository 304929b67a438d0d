"""Events that the job names and no row of the log has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist.data.events import nearest
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError
from tests.prepare.runs import make_job, prepared

COLUMNS = {"user": "u", "item": "i", "event": "e"}


def run(tmp_path: Path, events: dict[str, float], log: str = "view purchase view") -> Manifest:
    rows = "".join(f"a,{i},{event}\n" for i, event in enumerate(log.split()))
    (tmp_path / "log.csv").write_text("u,i,e\n" + rows)
    source = {"files": str(tmp_path / "log.csv"), "columns": COLUMNS}
    return prepared(make_job(tmp_path, source, events=events, vocabulary={"of": "all"}))[0]


@pytest.mark.parametrize(
    ("events", "name", "near"),
    [
        ({"view": 1, "purchse": 0}, "purchse", "purchase"),
        ({"view": 1, "PURCHASE": 0}, "PURCHASE", "purchase"),
        ({"view": 1, "purchse": 5, "*": 0}, "purchse", "purchase"),
        ({"purchses": 1, "*": 0}, "purchses", "purchase"),  # else nothing would be left
    ],
)
def test_a_misspelt_event_is_an_error(
    tmp_path: Path, events: dict[str, float], name: str, near: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, events)
    error = caught.value
    assert (error.where, error.value) == (f"prepare.events.{name}", name)
    assert error.rule == "the events of the log: purchase, view"
    assert f"did you mean '{near}'?" in str(error.fix)
    assert not (tmp_path / "run/prepare/manifest.json").exists()


def test_none_of_several_events_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no row.*'1'.*columns\.event"):
        run(tmp_path, {"1": 0, "2": 0})


@pytest.mark.parametrize(
    ("events", "weights"),
    [
        ({"view": 1, "return": 0}, {"view": 1, "purchase": 1}),
        ({"return": 0}, {"view": 1, "purchase": 1}),
        # A similar event that has a weight of its own.
        ({"view": 2, "purchase": 5, "purchases": 0}, {"view": 2, "purchase": 5}),
    ],
)
def test_an_event_that_is_absent_for_now_is_a_warning(
    tmp_path: Path, events: dict[str, float], weights: dict[str, float],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(tmp_path, events).events == weights
    absent = next(name for name in events if name not in weights)
    assert (
        f"no row of the log has the event '{absent}' of prepare.events" in capsys.readouterr().err
    )


def test_dropped_rows_have_events_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The only returns have no item."""
    assert run(tmp_path, {"view": 1, "purchase": 0}).events == {"view": 1}
    rows: dict[str, Any] = {"u": ["a"] * 3, "i": ["x", "y", None], "e": ["view", "view", "return"]}
    pq.write_table(pa.table(rows), tmp_path / "log.parquet")
    source = {"files": str(tmp_path / "log.parquet"), "format": "parquet", "columns": COLUMNS}
    prepared(make_job(tmp_path, source, events={"view": 1, "return": 0}))
    assert "no row of the log" not in capsys.readouterr().err


def test_values_that_a_dictionary_has_and_no_row_are_no_events(tmp_path: Path) -> None:
    events = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["view", "purchse"]))
    table = pa.table({"u": ["a", "a"], "i": ["x", "y"], "e": events})
    pq.write_table(table, tmp_path / "log.parquet")
    source = {"files": str(tmp_path / "log.parquet"), "format": "parquet", "columns": COLUMNS}
    manifest, _ = prepared(make_job(tmp_path, source, events={"view": 1, "purchse": 0}))
    assert manifest.events == {"view": 1}


def test_the_nearest_name() -> None:
    assert nearest("Add-To-Cart", ["view", "add_to_cart"]) == "add_to_cart"
    assert nearest("view", ["purchase", "cart"]) is None
    assert nearest("view", []) is None
