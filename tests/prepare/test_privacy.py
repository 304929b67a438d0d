"""What the prepared data keeps of people: items of few users, and how far back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from p5dist.config import parse_job
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError
from tests.prepare.runs import FIELDS, make_job, prepared

DAY = 86_400


def write(path: Path, rows: list[tuple[str, str, int]]) -> str:
    lines = [f"{user},{item},3,{time}" for user, item, time in rows]
    path.write_text("\n".join([",".join(FIELDS), *lines]) + "\n")
    return str(path)


def prepare(tmp: Path, rows: list[tuple[str, str, int]], **privacy: Any) -> tuple[Manifest, Path]:
    source = {"files": write(tmp / "log.csv", rows)}
    clean = {"min_user_interactions": 2, "keep_rejected": True}
    return prepared(make_job(tmp, source, clean=clean, privacy=privacy, vocabulary={"of": "all"}))


def items(folder: Path) -> set[str]:
    return set(pq.read_table(folder / "vocabulary/item.parquet")["external_id"].to_pylist())


def test_an_item_of_few_users_is_dropped_and_what_follows_from_it(tmp_path: Path) -> None:
    # "own" is one person's, however often; once "b" has lost it, "b" has one interaction, and
    # "shared" only two users: nothing of these is left.
    rows = [(user, item, n) for user in "uvw" for n, item in enumerate(["x", "y", "z"])]
    rows += [("b", "own", n) for n in range(5)]
    rows += [("b", "shared", 9), ("u", "shared", 9), ("v", "shared", 9)]
    rows += [("c", "x", 1), ("c", "y", 2), ("c", "x", 3)]
    manifest, folder = prepare(tmp_path, rows, min_item_users=3)
    assert items(folder) == {"x", "y", "z"}
    assert manifest.rows_rejected == {"few_users": 5 + 2, "rare_user": 1}
    assert manifest.users == 4
    reasons = [
        (row["user"], row["item"], row["reason"])
        for file in sorted((folder / "rejected").iterdir())
        for row in pq.read_table(file).to_pylist()
    ]
    assert sorted(reasons) == sorted(
        [("b", "own", "few_users")] * 5 + [("b", "shared", "rare_user")]
        + [("u", "shared", "few_users"), ("v", "shared", "few_users")]
    )  # fmt: skip
    profile = (folder / "profile.json").read_text()
    assert "rare_user" in profile and "prepare.privacy.min_item_users" in profile


def test_retention_counts_back_from_the_latest_interaction(tmp_path: Path) -> None:
    late = 1_700_000_000
    rows = [("u", f"i{n}", late - n * DAY) for n in range(6)]
    rows += [("v", f"i{n}", late - n * DAY - 1) for n in range(6)]
    rows.append(("v", "i5", late - 5 * DAY - 1))  # a duplicate, but too old first of all
    manifest, _ = prepare(tmp_path, rows, retention=3)
    # u: 0, 1, 2 and exactly 3 days before; v: a second more, so that the fourth is too old.
    assert manifest.rows_rejected == {"expired": 2 + 4}
    assert manifest.rows_kept == 7


def test_retention_needs_times(tmp_path: Path) -> None:
    job = f"name: x\nprepare: {{source: {{files: {tmp_path}/log.csv}}, privacy: {{retention: 3}}}}"
    with pytest.raises(ConfigError, match=r"privacy\.retention needs times"):
        parse_job(job)
