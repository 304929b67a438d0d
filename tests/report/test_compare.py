"""Comparison of run folders that are written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from typer.testing import CliRunner

from p5dist.cli.main import app
from p5dist.config import RunConfig, dump_job
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError, RunFolderError
from p5dist.report.compare import compare_runs
from p5dist.report.compare_show import page, table
from p5dist.storage import RunFolder
from tests.report.parsed import Page
from tests.report.small_run import small_job

USERS, ITEMS = ["ann", "bob", "cem"], ["x", "y", "z"]
Target = tuple[str, str, int | None]


def write_run(
    storage: Path,
    name: str,
    targets: Sequence[Target],
    *,
    users: Sequence[str] = USERS,
    items: Sequence[str | None] = ITEMS,
    unnamed: int = 0,
    data: str = "data1",
    columns: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
    ks: Sequence[int] = (1, 3),
    **job: Any,
) -> str:
    """A run folder with vocabularies, and the evaluation of (user, item, rank); its path."""
    settings = small_job(storage, name=name, **job)
    folder = RunFolder.of_job(settings)
    folder.root.make()
    folder.job.write_text(dump_job(settings))
    for side, names in (("user", users), ("item", items)):
        values = [list(range(1, len(names) + 1)), list(names), [1] * len(names)]
        (folder.prepare / f"vocabulary/{side}.parquet").write_table(
            pa.table(values, schema=c.VOCABULARY)
        )
    Manifest(
        fingerprint=data, shards=(), rows_in=9, rows_kept=9, rows_rejected={}, rows_by_split={},
        users=len(users), users_by_split={}, items=len(items), longest_history=3,
        unnamed_items=unnamed,
        split="leave one out",
    ).save(folder.prepare)  # fmt: skip
    ids = {
        c.USER: [users.index(u) + 1 for u, _, _ in targets],
        c.ITEM: [items.index(i) + 1 for _, i, _ in targets],
        c.RANK: pa.array([rank for _, _, rank in targets], pa.int64()),
    }
    (folder.evaluate / "targets.parquet").write_table(pa.table(ids | (columns or {})))
    (folder.evaluate / "result.json").write_json(
        {
            "metrics": {f"hr@{k}": {"value": 0.0, "low": None, "high": None} for k in ks},
            "data_fingerprint": data,
            "protocol": {"split": "test", "mask_seen": True, "catalogue": len(items)}
            | (protocol or {}),
        }
    )
    return str(folder.root)


def metric(found: dict[str, Any], name: str, side: int = 1) -> dict[str, Any]:
    one = next(m for m in found["metrics"] if m["metric"] == name)
    return dict(one["sides"][side])


ONE: list[Target] = [("ann", "x", 1), ("ann", "y", 4), ("bob", "x", 2), ("cem", "z", None)]
OTHER: list[Target] = [("ann", "x", 3), ("ann", "y", 2), ("bob", "x", 1), ("cem", "z", None)]


def test_differences_of_two_runs_by_hand(tmp_path: Path) -> None:
    one, other = (
        write_run(tmp_path, name, targets) for name, targets in (("one", ONE), ("other", OTHER))
    )
    found = compare_runs([one, other], resamples=100)
    assert (found["targets"], found["users"], found["paired_by"]) == (4, 3, "internal ids")
    assert found["warnings"] == []
    assert metric(found, "hr@3", 0)["value"] == 0.5 and metric(found, "hr@3")["value"] == 0.75
    assert metric(found, "hr@3")["difference"]["value"] == 0.25
    mrr = metric(found, "mrr@3")
    assert mrr["difference"]["value"] == pytest.approx((1 / 3 + 1 / 2 + 1) / 4 - (1 + 1 / 2) / 4)
    # mrr@3 of ann: (1 + 0) / 2 → (1/3 + 1/2) / 2, worse; of bob 1/2 → 1; of cem 0 → 0.
    shares = [mrr["difference"][name] for name in ("better", "worse", "equal")]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert metric(found, "accuracy")["value"] == 0.25


def test_runs_with_other_vocabularies_are_paired_by_external_ids(tmp_path: Path) -> None:
    one = write_run(tmp_path, "one", ONE)
    other = write_run(
        tmp_path, "other",
        [("cem", "z", None), ("dan", "w", 1), ("bob", "x", 1), ("ann", "y", 2), ("ann", "x", 3)],
        users=["dan", "cem", "bob", "ann"], items=["w", "z", "y", "x"], data="data2",
    )  # fmt: skip
    found = compare_runs([one, other], resamples=0)
    assert (found["targets"], found["paired_by"]) == (4, "external ids")
    assert metric(found, "hr@3", 0)["value"] == 0.5 and metric(found, "hr@3")["value"] == 0.75
    assert "catalogue: 3, 4" in found["warnings"][0]
    assert found["warnings"][1].endswith("are left out: 0 of one, 1 of other")


def test_hashed_ids_are_paired_by_the_name_of_the_id(tmp_path: Path) -> None:
    """An id that no item has is no item of the other run; shared ids are a warning."""
    one = write_run(tmp_path, "one", ONE)
    other = write_run(
        tmp_path, "other", OTHER, items=[None, "z", None, "x", "y"], unnamed=2, data="data2"
    )
    found = compare_runs([one, other], resamples=0)
    assert (found["targets"], found["paired_by"]) == (4, "external ids")
    assert metric(found, "hr@3")["value"] == 0.75
    assert "2 of other items have no name of their own" in found["warnings"][-1]


def test_repeated_targets_are_paired_by_occurrence(tmp_path: Path) -> None:
    """Ann has x twice; the second run lacks the target between."""
    one = write_run(tmp_path, "one", [("ann", "x", 1), ("ann", "y", 9), ("ann", "x", 2)])
    other = write_run(tmp_path, "other", [("ann", "x", 1), ("ann", "x", 5)])
    found = compare_runs([one, other], resamples=0)
    assert found["targets"] == 2
    assert metric(found, "hr@3", 0)["value"] == 1.0 and metric(found, "hr@3")["value"] == 0.5


def test_a_baseline_of_a_run_is_a_side(tmp_path: Path) -> None:
    popular = {"rank:popularity": pa.array([2, 2, None, None], pa.int64())}
    one = write_run(tmp_path, "one", ONE, columns=popular)
    found = compare_runs([one, f"{one}:popularity"], resamples=0)
    assert [side["label"] for side in found["sides"]] == ["one", "one:popularity"]
    assert metric(found, "hr@3")["value"] == 0.5 and metric(found, "hr@1")["value"] == 0.0
    with pytest.raises(ConfigError, match=r"no ranks of 'knn'(.|\n)*popularity"):
        compare_runs([one, f"{one}:knn"])


def test_predicted_ratings_are_compared_where_all_runs_have_them(tmp_path: Path) -> None:
    def rated(predicted: list[float], rating: list[float | None]) -> dict[str, Any]:
        return {"rating": pa.array(rating, pa.float64()), "predicted": predicted}

    ratings = [5.0, 3.0, None, 1.0]
    one = write_run(tmp_path, "one", ONE, columns=rated([4.0, 3.0, 9.0, 3.0], ratings))
    other = write_run(tmp_path, "other", OTHER, columns=rated([5.0, 2.0, 0.0, 3.0], ratings))
    found = compare_runs([one, other], resamples=0)
    assert metric(found, "mae", 0)["value"] == 1.0
    assert metric(found, "mae")["value"] == 1.0
    assert metric(found, "rmse", 0)["value"] == pytest.approx((5 / 3) ** 0.5)
    changed = write_run(tmp_path, "c", OTHER, columns=rated([5.0, 2.0, 0.0, 3.0], [5, 3, None, 2]))
    found = compare_runs([one, changed], resamples=0)
    assert "1 targets have another rating" in found["warnings"][0]
    assert metric(found, "mae", 0)["value"] == 0.5


def test_several_seeds_are_one_side_and_matched(tmp_path: Path) -> None:
    a, b = (
        [
            write_run(tmp_path, f"{name}-seed-{seed}", targets, train_seed=seed)
            for seed, targets in ((1, ONE), (2, OTHER))
        ]
        for name in "ab"
    )
    found = compare_runs([",".join(a), ",".join(b)], resamples=50)
    assert [side["label"] for side in found["sides"]] == ["a × 2", "b × 2"]
    assert found["method"]["same_seeds"] and "and runs" in found["method"]["interval"]
    hr = metric(found, "hr@3")
    assert hr["runs"] == (0.5, 0.75) and hr["value"] == 0.625
    difference = hr["difference"]
    assert (difference["value"], difference["low"], difference["high"]) == (0, 0, 0)
    (tmp_path / "a-seeds").mkdir()
    (tmp_path / "a-seeds/result.json").write_text(json.dumps({"pooled": ["a-seed-1", "a-seed-2"]}))
    pooled = compare_runs([f"{tmp_path}/a-seeds", b[0]], resamples=0)
    assert metric(pooled, "hr@3", 0)["runs"] == (0.5, 0.75)
    assert not pooled["method"]["same_seeds"]


def test_runs_of_one_name_are_shown_by_their_folders(tmp_path: Path) -> None:
    one, other = (write_run(tmp_path / place, "one", ONE) for place in "ab")
    found = compare_runs([one, other], resamples=0)
    assert [side["label"] for side in found["sides"]] == [one, other]
    with pytest.raises(ConfigError, match="a run twice"):
        compare_runs([f"{one},{one}/", other])


def test_segments_by_history_and_repeats(tmp_path: Path) -> None:
    about = {"history_length": pa.array([3, 3, 7, 200], pa.int32()),
             "repeated": [False, True, False, False], "timestamp": [0, 0, 0, 0]}  # fmt: skip
    one = write_run(tmp_path, "one", ONE, columns=about)
    other = write_run(tmp_path, "other", OTHER, columns=about)
    found = compare_runs([one, other], resamples=0)
    items, lengths, *_ = found["segments"]
    shown = {g["label"]: (g["examples"], g["sides"][1]["value"]) for g in lengths["groups"]}
    assert lengths["metric"] == "ndcg@3"
    assert shown == {
        "1–4": (2, pytest.approx((1 / 2 + 1 / np.log2(3)) / 2)),
        "5–9": (1, 1.0),
        "50+": (1, 0.0),
    }
    assert [group["examples"] for group in items["groups"]] == [3, 1]


def test_protocols_that_differ_are_warnings_and_splits_errors(tmp_path: Path) -> None:
    one = write_run(tmp_path, "one", ONE)
    other = write_run(tmp_path, "other", OTHER, protocol={"mask_seen": False})
    assert "mask_seen: True, False" in compare_runs([one, other], resamples=0)["warnings"][0]
    later = write_run(tmp_path, "later", OTHER, protocol={"split": "validation"})
    with pytest.raises(ConfigError, match=r"different splits(.|\n)*test and validation"):
        compare_runs([one, later])
    values = small_job(tmp_path).model_dump(mode="json")["prepare"]
    values["split"] = {"kind": "ratio", "test": 0.2}
    timed = write_run(tmp_path, "ratio", OTHER, prepare=values)
    with pytest.raises(ConfigError, match=r"prepare\.split\.kind(.|\n)*leave_one_out and ratio"):
        compare_runs([one, timed])


def test_runs_with_few_common_targets_are_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path, "one", ONE, protocol={"share_of_users": 0.5, "seed": 1})
    other = write_run(
        tmp_path, "other", [("bob", "x", 1), ("bob", "y", 1), ("bob", "z", 1)],
        protocol={"share_of_users": 0.5, "seed": 2},
    )  # fmt: skip
    message = r"too few targets(.|\n)*1 in all runs(.|\n)*seed that chooses the users: 1, 2"
    with pytest.raises(ConfigError, match=message):
        compare_runs([one, other])


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one = write_run(tmp_path, "one", ONE)
    with pytest.raises(ConfigError, match="one run cannot be compared"):
        compare_runs([one])
    with pytest.raises(RunFolderError, match="no run here"):
        compare_runs([one, f"{tmp_path}/nothing"])
    job = small_job(tmp_path, name="raw")
    RunFolder.of_job(job).root.make()
    RunFolder.of_job(job).job.write_text(dump_job(job))
    with pytest.raises(RunFolderError, match=r"not evaluated(.|\n)*evaluate"):
        compare_runs([one, f"{tmp_path}/raw"])


def _planted(tmp_path: Path) -> list[str]:
    """A run, one that is better by 10 % of its users, and a shuffled one without difference."""
    rng = np.random.default_rng(0)
    users = [f"u{i}" for i in range(500)]
    ranks = rng.integers(1, 20, 500)
    better = np.where(rng.random(500) < 0.1, 1, ranks)
    found = []
    for name, own in (("base", ranks), ("better", better), ("shuffled", rng.permutation(ranks))):
        targets = [(u, "x", int(r)) for u, r in zip(users, own, strict=True)]
        about = {"history_length": pa.array(rng.integers(1, 30, 500), pa.int32()),
                 "repeated": [False] * 500, "timestamp": [0] * 500}  # fmt: skip
        found.append(
            write_run(tmp_path, name, targets, users=users, ks=(1, 5, 10, 20), columns=about)
        )
    return found


def test_the_command_prints_tables_json_and_a_page(tmp_path: Path) -> None:
    runs = _planted(tmp_path)
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["compare", *runs, "--json", "--page", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    planted, nothing = (metric(found, "ndcg@10", s)["difference"] for s in (1, 2))
    assert planted["low"] > 0 and planted["p"] < 0.01
    assert nothing["low"] < 0 < nothing["high"] and nothing["p"] > 0.2
    html = out.read_text()
    Page(html)
    groups = sum(len(family["groups"]) for family in found["segments"])
    assert [family["name"] for family in found["segments"]] == [
        "history length", "item popularity", "item in training", "time",
    ]  # fmt: skip
    assert "better against base" in html and html.count("<svg") == 2 * (13 + groups)
    assert "prefers-color-scheme: dark" in html and "<script" not in html
    done = CliRunner().invoke(app, ["compare", *runs])
    assert done.exit_code == 0 and "better against base" in done.stdout


def test_the_table_fits_80_columns(tmp_path: Path) -> None:
    found = compare_runs(_planted(tmp_path), resamples=100)
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(table(found))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    row = next(line for line in text.splitlines() if line.startswith("ndcg@10"))
    assert "…" not in text and row.count("%") == 2, text


def test_values_of_runs_are_escaped_on_the_page(tmp_path: Path) -> None:
    one = write_run(tmp_path, "one", ONE)
    found = compare_runs([one, one], resamples=10)
    found["warnings"] = ["<script>alert(1)</script>"]
    assert "<script" not in page(found)


def test_a_job_file_names_its_run(tmp_path: Path) -> None:
    job: RunConfig = small_job(tmp_path, name="one")
    write_run(tmp_path, "one", ONE)
    (tmp_path / "job.yaml").write_text(dump_job(job))
    other = write_run(tmp_path, "other", OTHER)
    assert compare_runs([f"{tmp_path}/job.yaml", other], resamples=0)["targets"] == 4
