"""The example package, installed as by a user: from the raw log to the report, without code in
p5dist that knows the package."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.storage import Folder
from tests.report.parsed import Page

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "tests/example_package"
JOB = """
name: shop
storage: {folder}/runs
prepare:
  source:
    files: {folder}/log.txt
    format: key_values
    columns: {{user: who, item: what, timestamp: at, context: {{site: {{kind: domain_of_url, column: from}}}}}}
  items: {{files: {folder}/items.csv, id: what, title: name, attributes: {{shop: {{kind: domain_of_url, column: url}}}}}}
feed: {{lanes: 2, max_length: 12}}
model: {{dim: 8, encoder: {{kind: fading, half_life: 2}}, item_attributes: [shop]}}
pretrain: {{steps: 20, batch_size: 16, log_every: 1}}
finetune:
  both:
    task:
      kind: multi
      tasks:
        next: {{kind: next_item}}
        wait: {{kind: dwell, start_s: 600}}
        still: {{kind: dwell, start_s: 3600}}
      weights: {{still: 1.0e-30}}
    steps: 20
    batch_size: 16
    log_every: 1
    dense: {{lr: 0.01, weight_decay: 0}}
    validation: {{every: 10, metric: wait/mean_absolute_log_error}}
ranking: {{item_to_item: 0, returns: false}}
scale: {{workers: 1}}
"""  # noqa: E501
PATHS = {
    "key_values": "shop_kinds.key_values:KeyValues", "domain_of_url": "shop_kinds.domain:Domain",
    "fading": "shop_kinds.fading:Fading", "dwell": "shop_kinds.dwell:Dwell",
}  # fmt: skip
METRIC, MEDIAN = "mean_absolute_log_error", "median_gap"
WAIT, STILL = "finetune/both/wait", "finetune/both/still"
Log = dict[str, list[tuple[int, str]]]


def write_log(folder: Path) -> Log:
    """Time and item of every interaction by user, in the order of time; the log is in another."""
    draw = random.Random(3)
    log: Log = {}
    for number in range(40):
        time, rows = 1_700_000_000 + draw.randrange(10**6), []
        for _ in range(draw.randrange(4, 10)):
            rows.append((time, f"i{draw.randrange(12)}"))
            time += int(math.exp(draw.uniform(0, 12)))
        log[f"u{number}"] = rows
    lines = [
        f"at={time}|who={user}|what={item}" + ("|from=http://news.example/x" if time % 2 else "")
        for user, rows in log.items()
        for time, item in rows
    ]
    draw.shuffle(lines)
    (folder / "log.txt").write_text("\n".join([*lines[:50], "no record", *lines[50:]]) + "\n")
    items = [f"i{i},Item {i},https://www.{'ab'[i % 2]}.example/{i}?x=1" for i in range(12)]
    (folder / "items.csv").write_text("\n".join(["what,name,url", *items]) + "\n")
    return log


def environment(*places: Path) -> dict[str, str]:
    paths = os.pathsep.join(map(str, (ROOT, *places)))
    return {**os.environ, "PYTHONPATH": paths, "COLUMNS": "160"}


def p5dist(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "p5dist.cli.main", *map(str, words)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has installed the package."""
    place = tmp_path_factory.mktemp("installed")
    shutil.copytree(SOURCES, place / "sources")  # pip builds beside them
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *options]
    subprocess.run([*command, "--target", place / "site", place / "sources"], check=True)
    return place / "site"


@dataclass(frozen=True)
class Shop:
    """A finished run."""

    log: Log
    job: Path
    folder: Path
    terminal: str
    by_path: dict[str, list[float]]
    """Losses of the same job with kinds named by path, the package not installed."""

    def evaluated(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "evaluate/result.json").read_text()))

    def vocabulary(self, name: str) -> dict[str, int]:
        table = pq.read_table(self.folder / f"prepare/vocabulary/{name}.parquet")
        return dict(zip(table["external_id"].to_pylist(), table["id"].to_pylist(), strict=True))


TRAIN_BY_PATH = """
import json, sys
from p5dist.config import load_job
from p5dist.prepare import stage
from p5dist.environment.processes import Processes
from p5dist.storage import RunFolder
from tests.distributed.heads import curves
from tests.processes import run_distributed
if __name__ == "__main__":
    job, tasks = load_job(sys.argv[1]), Processes("prepare", 1)
    stage.run(job, RunFolder.of(job.storage, job.name), tasks)
    tasks.close()
    stages = {stage: (job, stage) for stage in job.trainings()}
    [found] = run_distributed(curves, 1, stages)
    print(json.dumps({stage: losses for stage, (losses, _) in found.items()}))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    log, job, other = write_log(folder), folder / "job.yaml", folder / "by_path.yaml"
    job.write_text(JOB.format(folder=folder))
    text = JOB.format(folder=folder).replace("/runs", "/others")
    for name, path in PATHS.items():
        text = text.replace(f" {name}", f" '{path}'")
    other.write_text(text)
    (folder / "by_path.py").write_text(TRAIN_BY_PATH)
    beside = subprocess.Popen(
        [sys.executable, folder / "by_path.py", other], env=environment(SOURCES), cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    run = subprocess.run(
        p5dist("run", job), env=environment(installed), cwd=folder, capture_output=True, text=True
    )
    losses, said = beside.communicate()
    assert run.returncode == 0, run.stderr
    assert beside.returncode == 0, said
    by_path = json.loads(losses.splitlines()[-1])
    assert "complete, skipped" not in run.stderr
    return Shop(log, job, folder / "runs/shop", run.stderr, by_path)


def test_the_format_and_the_attribute_kind_read_the_log(shop: Shop) -> None:
    manifest = json.loads((shop.folder / "prepare/manifest.json").read_text())
    assert manifest["rows_kept"] == sum(map(len, shop.log.values()))
    assert manifest["rows_rejected"] == {"malformed": 1}
    assert set(shop.vocabulary("user")) == set(shop.log)
    assert set(shop.vocabulary("item.shop")) == {"a.example", "b.example"}
    assert set(shop.vocabulary("context.site")) == {"news.example"}


def gap(rows: list[tuple[int, str]], at: int) -> float:
    """log(1 + seconds) before the interaction ``at``."""
    return math.log1p(rows[at][0] - rows[at - 1][0])


def test_metric_and_baseline_are_those_of_the_files(shop: Shop) -> None:
    """The last interaction of a user is the target, the one before it is for validation."""
    truth = {user: gap(rows, -1) for user, rows in shop.log.items()}
    training = [gap(rows, at) for rows in shop.log.values() for at in range(1, len(rows) - 2)]
    median = float(np.median(training))
    expected = np.mean([abs(median - true) for true in truth.values()])
    result = shop.evaluated()
    assert list(result["tasks"]) == [WAIT, STILL]
    for task in result["tasks"].values():
        assert task["kind"] == "dwell"
        assert task["baselines"] == {MEDIAN: {METRIC: pytest.approx(expected)}}
    # A loss that counts nothing moves nothing: the prediction is where it started.
    still = np.mean([abs(math.log1p(3600) - true) for true in truth.values()])
    assert result["tasks"][STILL]["metrics"][METRIC]["value"] == pytest.approx(still, rel=1e-5)
    predicted = predictions(shop)
    error = np.mean([abs(predicted[user] - true) for user, true in truth.items()])
    found = result["tasks"][WAIT]["metrics"][METRIC]
    assert found["value"] == pytest.approx(error, rel=1e-4)
    assert found["low"] < found["value"] < found["high"]
    assert len(set(predicted.values())) > 30, "it has learned to tell users apart"


def predictions(shop: Shop) -> dict[str, float]:
    """Of the task ``wait`` for the next interaction after the history of each user, from the
    weights of the best checkpoint."""
    checkpoint = Checkpoints(Folder.open(f"{shop.folder}/finetune/both/checkpoints")).best()
    entries = {entry.name: entry for _, entry in checkpoint.entries()}
    saved = {
        name: torch.empty(entry.shape, dtype=entry.torch_dtype)
        for name, entry in entries.items()
        if name.startswith("model.")
    }
    checkpoint.load(saved)
    weights = {name.removeprefix("model."): w.double().numpy() for name, w in saved.items()}
    rows = weights["backbone.items.ids.embeddings.item.weight"]
    shops = weights["backbone.items.bags.embedding_bags.item_shop.weight"]
    items, known = shop.vocabulary("item"), shop.vocabulary("item.shop")
    vector = {
        name: rows[at] + shops[known[f"{'ab'[int(name[1:]) % 2]}.example"]]
        for name, at in items.items()
    }
    found = {}
    for user, history in shop.log.items():
        age = np.arange(len(history) - 1)[::-1]
        share = 0.5 ** (age / 2)
        x = np.array([vector[item] for _, item in history[:-1]]) * 8**0.5
        mean = (share / share.sum()) @ x
        state = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-5)
        state = state * weights["backbone.encoder.norm.weight"]
        state = state + weights["backbone.encoder.norm.bias"]
        out = weights["head.parts.1.out.weight"] @ state + weights["head.parts.1.out.bias"]
        found[user] = float(out[0])
    return found


def test_terminal_and_report_show_both_tasks(shop: Shop) -> None:
    page = Page((shop.folder / "report.html").read_text())
    shown = [a["data-metrics"] for _, a in page.tags if "data-metrics" in a]
    assert shown == ["Ranking", "Lists", f"Dwell: {WAIT}", f"Dwell: {STILL}"]
    rows = [row[1:] for row in page.rows if row[0] == "Mean absolute log error ↓"]
    lines = [line for line in shop.terminal.splitlines() if line.startswith(METRIC)]
    assert f"Dwell: {WAIT} of 40 test examples" in shop.terminal
    for path, row, line in zip((WAIT, STILL), rows, lines, strict=True):
        task = shop.evaluated()["tasks"][path]
        value, median = task["metrics"][METRIC]["value"], task["baselines"][MEDIAN][METRIC]
        assert (row[0], row[2]) == (f"{value:.4f}", f"{median:.4f}")
        assert f"{value:.4f}" in line and f"{median:.4f}" in line
    assert "40 test interactions: 40 targets" in shop.terminal
    assert "40 test interactions: 40 targets" in page.text
    lists = pq.read_table(sorted((shop.folder / "recommend").glob("part-*.parquet")))
    assert set(lists["user_id"].to_pylist()) == set(shop.log)


def test_the_task_is_learned(shop: Shop) -> None:
    lines = (shop.folder / "finetune/both/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    losses = [step["loss"] for step in steps]
    assert [step["step"] for step in steps] == list(range(1, 21))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_kinds_by_path_give_the_same_losses(shop: Shop) -> None:
    assert set(shop.by_path) == {"pretrain", "finetune/both"}
    for stage, found in shop.by_path.items():
        lines = (shop.folder / stage / "metrics.jsonl").read_text().splitlines()
        assert found == pytest.approx([json.loads(line)["loss"] for line in lines], rel=1e-4)
        assert all(a != b for a, b in pairwise(found))


def test_without_the_package_a_message_says_what_is_missing(shop: Shop) -> None:
    for command in (p5dist("run", shop.job, "--dry-run"), p5dist("status", shop.folder)):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        said = " ".join(done.stderr.split())
        assert "prepare.source.format: unknown source format" in said
        assert "install the package that adds 'key_values' on every machine of the run" in said
        for kind in ("attribute kind 'domain_of_url'", "encoder 'fading'", "task 'dwell'"):
            assert f"unknown {kind}" in said


def test_the_contract_holds_for_the_kinds_of_the_package(installed: Path) -> None:
    tests = ["models/test_encoder_contract.py", "tasks/test_contract.py"]
    tests += [f"prepare/{of}/test_contract.py" for of in ("attribute_kinds", "formats")]
    chosen = ["-k", "registered or " + " or ".join(PATHS), "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *(f"tests/{test}" for test in tests), *chosen],
        env=environment(installed), cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout
