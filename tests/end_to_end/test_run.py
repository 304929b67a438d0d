"""The command of a user from raw log to report, stopped and killed while it runs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from p5dist.config import load_job
from p5dist.data import columns as c
from p5dist.storage import Folder
from tests.faults.jobs import JobProcess, leftovers, losses_without_ray

STEPS = 360
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
pretrain: {{steps: STEPS, batch_size: 16, log_every: 1, checkpoint: {{every: 20}},
  validation: null}}
finetune:
  rating: {{task: {{kind: rating, base: mean}}, steps: 10, batch_size: 16, validation: null}}
ranking: {{item_to_item: 0.2, returns: false}}
scale: {{workers: 2}}
""".replace("STEPS", str(STEPS))  # noqa: E501


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


@dataclass(frozen=True)
class Disturbed:
    """A run that was stopped, killed and started again to its end."""

    folder: Path
    """Of the run."""
    results: dict[str, dict[str, object]]
    """What the last command printed, by stage."""
    stopped_at: int
    """The last step in the log after SIGTERM."""
    checkpoint: int
    """The last one after SIGTERM."""
    said: str
    """What the stopped command printed."""
    survivors: list[psutil.Process]
    """Processes that were there a minute after SIGTERM or SIGKILL."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """Stopped by SIGTERM early in pre-training, killed by SIGKILL later, started a third time."""
    folder = tmp_path_factory.mktemp("run")
    write_log(folder)
    job = JobProcess("run", folder / "job.yaml")
    job.start()
    job.wait_for_step(60)
    family = job.family()
    family[0].terminate()
    assert job.wait(60) == 143, job.log.read_text()
    survivors = psutil.wait_procs(family, timeout=60)[1]
    stopped_at, checkpoint, said = job.last_step(), job.checkpoints()[-1], job.log.read_text()
    assert stopped_at < STEPS and leftovers(job.stage) == []

    job.start()
    job.wait_for_step(stopped_at + 60)
    family = job.family()
    family[0].kill()
    job.wait()
    survivors += psutil.wait_procs(family, timeout=60)[1]
    assert not (folder / "runs/tiny/pretrain/result.json").exists()

    again = subprocess.run(
        command(folder, "--json"), capture_output=True, text=True, check=False, timeout=400
    )
    assert again.returncode == 0, again.stderr
    assert "pretrain continues" in again.stderr
    return Disturbed(
        folder / "runs/tiny", json.loads(again.stdout), stopped_at, checkpoint, said, survivors
    )


def test_every_stage_ended_and_every_row_is_accounted_for(
    run: Disturbed,
) -> None:
    folder = run.folder
    assert list(run.results) == ["prepare", "pretrain", "finetune/rating", "evaluate", "recommend",
                             "report"]  # fmt: skip
    manifest = json.loads((folder / "prepare/manifest.json").read_text())
    lines = (folder.parent.parent / "log.csv").read_text().splitlines()
    assert manifest["rows_in"] == len(lines) - 1
    assert manifest["rows_rejected"] == {"null_item": 1}
    assert manifest["rows_kept"] == len(lines) - 2


def test_sigterm_saves_a_checkpoint_and_ends_in_order(run: Disturbed) -> None:
    assert run.checkpoint == run.stopped_at, "the last step before the end was saved"
    assert f"stopped as asked, with a checkpoint after step {run.stopped_at}" in run.said
    assert "the same command" in run.said
    assert run.survivors == []


def test_the_curve_is_that_of_an_undisturbed_process_without_ray(
    run: Disturbed, tmp_path: Path
) -> None:
    lines = [json.loads(s) for s in (run.folder / "pretrain/metrics.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    undisturbed = losses_without_ray(load_job(run.folder.parent.parent / "job.yaml"), tmp_path)
    assert [line["loss"] for line in lines] == pytest.approx(undisturbed, rel=1e-5)
    assert leftovers(Folder.open(str(run.folder / "pretrain"))) == []


def test_results_have_the_documented_shape(
    run: Disturbed,
) -> None:
    result = json.loads((run.folder / "evaluate/result.json").read_text())
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
    run: Disturbed,
) -> None:
    table = pq.read_table(sorted((run.folder / "recommend").glob("part-*.parquet")))
    rows = table.to_pylist()
    assert {row[c.USER_ID] for row in rows} == {f"user{i}" for i in range(60)}
    assert all(row[c.TITLE] == f"Item number {row[c.ITEM_ID][4:]}" for row in rows)
    seen: dict[str, set[str]] = {}
    log = (run.folder.parent.parent / "log.csv").read_text().splitlines()[1:-1]
    for line in log:
        user, item, *_ = line.split(",")
        seen.setdefault(user, set()).add(item)
    assert not any(row[c.ITEM_ID] in seen[row[c.USER_ID]] for row in rows)


def test_the_report_is_there_and_a_third_start_has_nothing_to_do(
    run: Disturbed,
) -> None:
    assert "<html" in (run.folder / "report.html").read_text()
    folder = run.folder.parent.parent
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
