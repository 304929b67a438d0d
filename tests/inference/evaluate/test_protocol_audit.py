"""The protocol audit: every planted fault is found, and clean data passes."""

from __future__ import annotations

import random
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.inference.evaluate.audit_counts import AuditCounts, known_of
from p5dist.inference.evaluate.protocol_audit import checks
from p5dist.inference.evaluate.score import rule_of
from p5dist.inference.evaluate.table import audit_table
from p5dist.storage import RunFolder
from tests.prepare.runs import make_job, prepared, write_csv

Log = list[tuple[str, str, int]]
"""(user, item, seconds)"""
MISSED = np.iinfo(np.int64).max
CLEAN: Log = [
    (f"u{user}", f"i{(7 * user + 3 * n) % 10}", 1_000 * n + user)
    for user in range(8)
    for n in range(6)
]
"""Users with six different items each, all at other times; test is from second 5000 on."""
TIME_SPLIT = {"kind": "time", "test": "1970-01-01T01:23:20"}


def written(path: Path, log: Log) -> str:
    return write_csv(
        path, [{"user": u, "item": i, "rating": "3", "timestamp": str(t)} for u, i, t in log]
    )


def audit(
    job: RunConfig, folder: RunFolder, manifest: Manifest, **options: Any
) -> list[dict[str, Any]]:
    """As the evaluate stage: counts of portions, as text, added up."""
    assert job.evaluate is not None
    rule, known = rule_of(job, job.evaluate, manifest), known_of(job, folder, manifest)
    reader = ShardReader(folder.prepare, manifest, (c.TIMESTAMP,))
    parts = [
        AuditCounts.from_json(AuditCounts.of(reader.users(portion), rule, known).to_json())
        for portion in reader.portions(4)
    ]
    return checks(reduce(AuditCounts.merge, parts), job, folder, manifest, **options)


def audited(job: RunConfig, **options: Any) -> dict[str, dict[str, Any]]:
    manifest, _ = prepared(job)
    found = audit(job, RunFolder.of_job(job), manifest, **options)
    return {check["name"]: check for check in found}


def run(tmp_path: Path, log: Log, **prepare: Any) -> dict[str, dict[str, Any]]:
    return audited(make_job(tmp_path, {"files": written(tmp_path / "log.csv", log)}, **prepare))


def given(tmp_path: Path, train: Log, test: Log) -> dict[str, dict[str, Any]]:
    split = {"kind": "given", "test": written(tmp_path / "test.csv", test)}
    return run(tmp_path, train, split=split)


def found(checks: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {
        name: (check["number"], check["of"])
        for name, check in checks.items()
        if check["status"] == "found"
    }


def test_clean_data_pass(tmp_path: Path) -> None:
    manifest_checks = run(tmp_path, CLEAN, split=TIME_SPLIT)
    assert found(manifest_checks) == {}
    open_ = [name for name, check in manifest_checks.items() if check["status"] == "not checked"]
    assert open_ == ["rankers with other targets"]
    assert manifest_checks["sampled candidates"]["explanation"].endswith("catalogue of 10 ids")
    assert manifest_checks["targets that training has too"]["of"] == 8


def test_a_target_that_is_also_in_training(tmp_path: Path) -> None:
    checks = given(
        tmp_path,
        [("ann", "x", 10), ("ann", "y", 20), ("bob", "x", 15), ("bob", "y", 16)],
        [("ann", "y", 20), ("bob", "x", 30)],
    )
    check = checks["targets that training has too"]
    assert (check["status"], check["number"], check["of"]) == ("found", 1, 2)
    assert check["examples"] == ["user ann, item y, 1970-01-01 00:00:20"]


def test_training_of_the_same_user_after_the_target(tmp_path: Path) -> None:
    checks = given(
        tmp_path,
        [("ann", "x", 10), ("ann", "y", 200_000), ("ann", "z", 20), ("bob", "x", 15)],
        [("ann", "z", 30), ("bob", "y", 40), ("bob", "z", 50)],
    )
    assert found(checks)["training after the target"] == (1, 3)
    assert checks["training after the target"]["examples"][0].startswith("user ann, item z")
    # The first target is of second 30; day 2 has the one later interaction.
    assert found(checks)["training after the first target"] == (1, 4)
    assert (
        "training lasts to 1970-01-03" in checks["training after the first target"]["explanation"]
    )


def test_training_of_others_on_the_day_of_the_first_target(tmp_path: Path) -> None:
    checks = given(
        tmp_path, [("ann", "x", 10), ("bob", "x", 40), ("bob", "y", 41)], [("ann", "y", 30)]
    )
    assert found(checks) == {"training after the first target": (1, 3)}
    assert "on the same day" in checks["training after the first target"]["explanation"]


def test_leave_one_out_says_why_the_time_of_others_is_not_checked(tmp_path: Path) -> None:
    check = run(tmp_path, CLEAN)["training after the first target"]
    assert check["status"] == "not checked" and "leave_one_out" in check["explanation"]


def test_targets_tied_with_the_history(tmp_path: Path) -> None:
    tied = [(u, i, 4_000 if u == "u0" and t >= 4_000 else t) for u, i, t in CLEAN]
    checks = run(tmp_path, tied)
    assert found(checks) == {"targets tied with the history": (1, 8)}
    assert "the order of the log" in checks["targets tied with the history"]["explanation"]


def _tied_log(users: int, *, sort: bool) -> Log:
    draw = random.Random(0)
    log: Log = []
    for user in range(users):
        items = draw.sample(range(30), 6)
        log += [(f"u{user}", str(i), 1_000) for i in (sorted(items) if sort else items)]
    return log


def test_items_in_the_order_of_ids_at_one_time(tmp_path: Path) -> None:
    checks = run(tmp_path, _tied_log(60, sort=True), vocabulary={"of": "all"})
    assert checks["items in the order of ids"]["status"] == "found"
    # The history is training and validation: 5 items, 4 neighbours, all rising.
    assert found(checks)["items in the order of ids"] == (240, 240)
    assert found(checks)["targets in the order of ids"] == (60, 60)
    assert "ties: shuffled" in checks["targets in the order of ids"]["explanation"]


@pytest.mark.parametrize("ties", ["log", "shuffled"])
def test_random_and_shuffled_ties_pass(tmp_path: Path, ties: str) -> None:
    checks = run(tmp_path, _tied_log(60, sort=ties == "shuffled"), ties=ties)
    assert set(found(checks)) == {"targets tied with the history"}
    assert checks["items in the order of ids"]["of"] == 240


def test_a_log_without_times_that_is_sorted_by_id(tmp_path: Path) -> None:
    log = written(tmp_path / "log.csv", _tied_log(60, sort=True))
    source = {"files": log, "columns": {"user": "user", "item": "item", "timestamp": None}}
    checks = audited(make_job(tmp_path, source, vocabulary={"of": "all"}))
    assert set(found(checks)) >= {"items in the order of ids", "targets in the order of ids"}
    assert checks["targets tied with the history"]["status"] == "not checked"


def test_targets_of_items_that_training_never_saw(tmp_path: Path) -> None:
    last = {("u1", 5_001): "new", ("u2", 5_002): "other"}
    log = [(u, last.get((u, t), i), t) for u, i, t in CLEAN]
    dropped = run(tmp_path, log, split=TIME_SPLIT)
    assert found(dropped) == {"targets of unknown items": (2, 8)}
    (tmp_path / "all").mkdir()
    kept = run(tmp_path / "all", log, split=TIME_SPLIT, vocabulary={"of": "all"})
    assert found(kept) == {"targets of untrained items": (2, 8)}
    assert kept["targets of untrained items"]["examples"][0].startswith("user u")


def test_data_that_did_not_count_unknown_items_by_split(tmp_path: Path) -> None:
    log = [(u, "new" if t == 5_001 else i, t) for u, i, t in CLEAN]
    job = make_job(tmp_path, {"files": written(tmp_path / "log.csv", log)}, split=TIME_SPLIT)
    manifest, _ = prepared(job)
    old = manifest.model_copy(update={"unknown_items_by_split": {}})
    check = next(k for k in audit(job, RunFolder.of_job(job), old) if "unknown" in k["name"])
    assert (check["status"], check["number"]) == ("not checked", None)


def test_users_without_training(tmp_path: Path) -> None:
    checks = run(tmp_path, [*CLEAN, ("late", "i1", 6_000)], split=TIME_SPLIT)
    assert found(checks) == {"users without training": (1, 9)}
    assert checks["users without training"]["examples"] == ["user late"]


def test_rankers_with_other_targets(tmp_path: Path) -> None:
    job = make_job(tmp_path, {"files": written(tmp_path / "log.csv", CLEAN)}, split=TIME_SPLIT)
    same = {"model": np.array([1, 2, MISSED]), "popularity": np.array([3, 3, MISSED])}
    assert found(audited(job, ranks=same)) == {}
    fewer = same | {"item_to_item": np.array([3, 3])}
    assert found(audited(job, ranks=fewer)) == {"rankers with other targets": (1, 3)}
    unlisted = same | {"item_to_item": np.array([3, 3, 1])}
    check = audited(job, ranks=unlisted)["rankers with other targets"]
    assert check["status"] == "found" and "item_to_item 3 (0)" in check["explanation"]


def test_repeated_targets(tmp_path: Path) -> None:
    log = [(u, "i0" if u == "u0" and t in (0, 5_000) else i, t) for u, i, t in CLEAN]
    log = [row for row in log if row != ("u0", "i0", 3_000)]
    job = make_job(tmp_path, {"files": written(tmp_path / "log.csv", log)}, split=TIME_SPLIT)
    assert found(audited(job)) == {"targets that the user had before": (1, 8)}
    ranked = job.model_copy(
        update={"evaluate": job.evaluate.model_copy(update={"mask_seen": False})}  # type: ignore[union-attr]
    )
    check = audited(ranked)["targets that the user had before"]
    assert (check["status"], check["number"]) == ("ok", 1)


def test_counts_of_portions_add_up(tmp_path: Path) -> None:
    log = _tied_log(20, sort=True) + CLEAN + [("late", "i1", 9_000), ("u1", "i0", 9_000)]
    job = make_job(
        tmp_path, {"files": written(tmp_path / "log.csv", log)}, vocabulary={"of": "all"},
        group_rows=4, max_length=3,
    )  # fmt: skip
    manifest, _ = prepared(job)
    folder = RunFolder.of_job(job)
    assert job.evaluate is not None
    rule, known = rule_of(job, job.evaluate, manifest), known_of(job, folder, manifest)
    reader = ShardReader(folder.prepare, manifest, (c.TIMESTAMP,))
    (whole,) = [AuditCounts.of(reader.users(p), rule, known) for p in reader.portions(10**9)]
    parts = [AuditCounts.of(reader.users(p), rule, known) for p in reader.portions(1)]
    merged = reduce(AuditCounts.merge, parts, AuditCounts())
    assert len(parts) > 5 and merged == whole


def test_the_terminal_shows_what_was_found(tmp_path: Path) -> None:
    checks = list(run(tmp_path, [*CLEAN, ("late", "i1", 6_000)], split=TIME_SPLIT).values())
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(audit_table(checks))
    text = console.export_text()
    assert "users without training" in text and "1 of 9" in text and "user late" in text
    assert "10 checks of the protocol passed, 1 not checked" in text
    assert "sampled" not in text and max(map(len, text.splitlines())) <= 80
