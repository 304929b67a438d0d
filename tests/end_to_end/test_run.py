"""The command that a user types, raw log to report, with the driver killed on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from p5dist.data import columns as c

JOB = """
name: tiny
storage: {folder}/runs
prepare:
  source:
    files: {folder}/log.csv
    columns: {{user: who, item: what, timestamp: when, rating: stars}}
  items: {{files: {folder}/items.csv, id: what, title: name, attributes: {{kind: {{kind: category}}}}}}
feed: {{lanes: 4, max_length: 10}}
model: {{dim: 16, encoder: {{layers: 1}}, item_attributes: [kind]}}
pretrain: {{steps: 600, batch_size: 16, log_every: 1, checkpoint: {{every: 20}}}}
finetune:
  rating: {{task: {{kind: rating}}, steps: 10, batch_size: 16}}
scale: {{workers: 2}}
"""  # noqa: E501


def write_log(folder: Path) -> None:
    """Sixty users; item n is mostly followed by item n + 1. One row has no item."""
    draw = random.Random(0)
    rows = ["who,what,when,stars"]
    for user in range(60):
        item = draw.randrange(20)
        for time_ in range(draw.randrange(4, 12)):
            rows.append(f"user{user},item{item},{1000 + time_},{1 + item % 5}")
            item = (item + 1 if draw.random() < 0.9 else draw.randrange(20)) % 20
    rows.append("user1,,5,3")
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    items = [f"item{i},Item number {i},{'even' if i % 2 == 0 else 'odd'}" for i in range(20)]
    (folder / "items.csv").write_text("\n".join(["what,name,kind", *items]) + "\n")
    (folder / "job.yaml").write_text(JOB.format(folder=folder))


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "p5dist.cli.main", "run", str(folder / "job.yaml"), *words]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, object]]]:
    """A job killed with SIGKILL in the middle of pre-training and started again."""
    folder = tmp_path_factory.mktemp("run")
    write_log(folder)
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(command(folder), stdout=log, stderr=log, start_new_session=True)
    marker = folder / "runs/tiny/pretrain/checkpoints"
    end = time.monotonic() + 240
    while not list(marker.glob("step-*/complete.json")):
        assert first.poll() is None, (folder / "first.log").read_text()
        assert time.monotonic() < end, (folder / "first.log").read_text()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (folder / "runs/tiny/pretrain/result.json").exists()
    again = subprocess.run(
        command(folder, "--json"), capture_output=True, text=True, check=False, timeout=400
    )
    assert again.returncode == 0, again.stderr
    assert "pretrain continues" in again.stderr
    return folder / "runs/tiny", json.loads(again.stdout)


def test_every_stage_ended_and_every_row_is_accounted_for(
    run: tuple[Path, dict[str, dict[str, object]]],
) -> None:
    folder, results = run
    assert list(results) == ["prepare", "pretrain", "finetune/rating", "evaluate", "recommend",
                             "report"]  # fmt: skip
    manifest = json.loads((folder / "prepare/manifest.json").read_text())
    lines = (folder.parent.parent / "log.csv").read_text().splitlines()
    assert manifest["rows_in"] == len(lines) - 1
    assert manifest["rows_rejected"] == {"null_item": 1}
    assert manifest["rows_kept"] == len(lines) - 2


def test_no_step_is_missing_or_twice_after_the_kill(
    run: tuple[Path, dict[str, dict[str, object]]],
) -> None:
    lines = (run[0] / "pretrain/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 601))


def test_results_have_the_documented_shape(
    run: tuple[Path, dict[str, dict[str, object]]],
) -> None:
    result = json.loads((run[0] / "evaluate/result.json").read_text())
    for key in ("hr@10", "ndcg@10", "mrr@10", "rmse", "mae"):
        metric = result["metrics"][key]
        assert metric["low"] <= metric["value"] <= metric["high"]
    # The next item is the successor nine times in ten; chance would be about 0.15.
    assert result["metrics"]["hr@1"]["value"] > 0.4
    assert result["metrics"]["ndcg@10"]["value"] > result["baselines"]["popularity"]["ndcg@10"]
    assert {"split", "catalogue", "mask_seen", "max_length", "ties", "seed", "users"} <= set(
        result["protocol"]
    )
    assert {"versions", "machine", "job_fingerprint", "data_fingerprint", "seconds"} <= set(result)


def test_recommendations_have_the_ids_and_titles_of_the_log(
    run: tuple[Path, dict[str, dict[str, object]]],
) -> None:
    table = pq.read_table(sorted((run[0] / "recommend").glob("part-*.parquet")))
    rows = table.to_pylist()
    assert {row[c.USER_ID] for row in rows} == {f"user{i}" for i in range(60)}
    assert all(row[c.TITLE] == f"Item number {row[c.ITEM_ID][4:]}" for row in rows)
    seen: dict[str, set[str]] = {}
    log = (run[0].parent.parent / "log.csv").read_text().splitlines()[1:-1]
    for line in log:
        user, item, *_ = line.split(",")
        seen.setdefault(user, set()).add(item)
    assert not any(row[c.ITEM_ID] in seen[row[c.USER_ID]] for row in rows)


def test_the_report_is_there_and_a_third_start_has_nothing_to_do(
    run: tuple[Path, dict[str, dict[str, object]]],
) -> None:
    assert "<html" in (run[0] / "report.html").read_text()
    folder = run[0].parent.parent
    dry = subprocess.run(
        command(folder, "--dry-run", "--json"), capture_output=True, text=True, check=True
    )
    states = json.loads(dry.stdout)
    assert {states[stage] for stage in states if stage != "report"} == {"complete"}


def test_mistakes_are_a_message_and_exit_code_1(tmp_path: Path) -> None:
    write_log(tmp_path)
    for words, message in (
        (["pretrain.stepz=3"], "did you mean 'steps'?"),
        (["trian"], "unknown stage 'trian'"),
        (["prepare", "prepare.source.columns.item=product"], "product"),
    ):
        done = subprocess.run(
            command(tmp_path, *words), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
