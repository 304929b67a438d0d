"""Several seeds of one job: what runs, what is skipped, the numbers over all seeds; and whole runs
that are killed in the middle."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from p5dist import pipeline, seeds
from p5dist.cli.main import app
from p5dist.config import RunConfig, dump_job, load_job
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError, RunFolderError
from p5dist.feed.mix import open_mix
from p5dist.inference.evaluate.score import rule_of
from p5dist.models.adapters import dense_parameters
from p5dist.observe.stages import check_shared_data
from p5dist.storage import RunFolder
from p5dist.tasks.build import build_model
from tests.end_to_end.test_run import write_log
from tests.small_data import small_job, write_small_data


def test_seeds_are_a_number_or_a_list(tmp_path: Path) -> None:
    job = small_job(tmp_path)  # seed 3
    assert seeds.parse_seeds("3", job) == [3, 4, 5]
    assert seeds.parse_seeds("2", small_job(tmp_path, "train_seed=7")) == [7, 8]
    assert seeds.parse_seeds("9, 1", job) == [9, 1]
    assert seeds.parse_seeds("7,", job) == [7]
    for text in ("0", "1,1", "a", "", "-1", "1,,2"):
        with pytest.raises(ConfigError, match=r"no seeds(.|\n)*--seeds"):
            seeds.parse_seeds(text, job)


def test_the_seed_of_training_decides_weights_and_not_data(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    one, same = seeds.job_of(job, 4), seeds.job_of(job, 3)
    assert (one.name, one.seed, one.train_seed, one.data_of) == ("small-seed-4", 3, 4, "small")
    for stage in job.stages():
        assert (one.fingerprint(stage) == job.fingerprint(stage)) == (stage == "prepare")
        assert same.fingerprint(stage) == job.fingerprint(stage), "earlier results stay valid"
    assert one.stages() == job.stages()[1:]
    assert RunFolder.of_job(one).prepare == RunFolder.of_job(job).prepare


def test_training_reads_the_seed_of_training(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    manifest = Manifest.read(folder.prepare)
    one = seeds.job_of(job, 4)
    first, other, again = (
        build_model(j, "pretrain", manifest, torch.device("cpu"))
        for j in (job, one, seeds.job_of(job, 3))
    )
    weights = [next(iter(dense_parameters(m.backbone))) for m in (first, other, again)]
    flat = [w.detach().flatten() for w in weights]
    assert torch.equal(flat[0], flat[2])
    states = [torch.cat([p.detach().flatten() for p in dense_parameters(m.backbone)])
              for m in (first, other)]  # fmt: skip
    assert not torch.equal(*states)
    assert open_mix(one, "pretrain", RunFolder.of_job(one), manifest).own.order.seed == 4
    assert one.evaluate is not None
    assert rule_of(one, one.evaluate, manifest).seed == 3


def test_a_run_cannot_use_its_own_data_as_of_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this run itself"):
        small_job(tmp_path, "data_of=small")


def test_data_of_another_job_is_refused(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    folder.job.write_text(dump_job(job))
    one = seeds.job_of(job, 5)
    check_shared_data(one, RunFolder.of_job(one))
    other = seeds.job_of(small_job(tmp_path, "prepare.ties=shuffled"), 5)
    with pytest.raises(RunFolderError, match=r"prepare\.ties: 'log' there, 'shuffled' here"):
        pipeline.run(other, ["pretrain"])
    run = RunFolder.of_job(one)
    (run.training("pretrain") / "result.json").write_json({"data_fingerprint": "before"})
    with pytest.raises(RunFolderError, match=r"prepared again since pretrain(.|\n)*before then"):
        check_shared_data(one, run)
    assert RunFolder.at(run.root).prepare != folder.prepare, "there is no job.yaml yet"
    run.job.write_text(dump_job(one))
    assert RunFolder.at(run.root).prepare == folder.prepare


class Pipeline:
    """In place of :func:`pipeline.run`: notes the calls, and writes evaluations."""

    def __init__(self, ranks: dict[int, list[int]]) -> None:
        self.ranks, self.calls, self.fail_at = ranks, [], -1  # type: ignore[var-annotated]

    def __call__(self, job: RunConfig, stages: list[str], *, fresh: bool = False) -> None:
        self.calls.append((job.name, stages, fresh))
        if job.train_seed == self.fail_at:
            raise KeyboardInterrupt
        folder = RunFolder.of_job(job)
        folder.job.write_text(dump_job(job))
        for stage in stages:
            if stage == "prepare":
                write_small_data(job)
                continue
            result: dict[str, Any] = {
                "job_fingerprint": job.fingerprint(stage), "data_fingerprint": "small",
                "seconds": 1.0,
            }  # fmt: skip
            if stage == "evaluate":
                result |= self.evaluation(job, folder)
            (folder.root / stage / "result.json").write_json(result)

    def evaluation(self, job: RunConfig, folder: RunFolder) -> dict[str, Any]:
        rank = np.array(self.ranks[job.training_seed])
        table = {"user": np.arange(1, len(rank) + 1), "item": np.ones(len(rank), np.int64),
                 "rank": rank, "rank:popularity": np.full(len(rank), 2)}  # fmt: skip
        (folder.evaluate / "targets.parquet").write_table(pa.table(table))
        hit = float((rank <= 1).mean())
        return {
            "metrics": {"hr@1": {"value": hit, "low": None, "high": None}, "coverage@1":
                        {"value": job.training_seed / 8, "low": None, "high": None}},
            "baselines": {"popularity": {"hr@1": 0.0}},
            "tasks": {}, "metric_info": {}, "protocol": {"split": "test"},
        }  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    made = Pipeline({3: [1, 1, 9, 9], 4: [1, 1, 1, 9], 5: [1, 1, 1, 1]})
    monkeypatch.setattr(pipeline, "run", made)
    return made


def test_the_numbers_over_all_seeds(tmp_path: Path, fake: Pipeline) -> None:
    job = small_job(tmp_path, "report=null", "recommend=null")
    result = seeds.run(job, [], [3, 4, 5])
    rest = ["pretrain", "finetune/rating", "evaluate"]
    assert fake.calls == [
        ("small", ["prepare"], False),
        *((f"small-seed-{seed}", rest, False) for seed in (3, 4, 5)),
    ]
    assert result == seeds.folder_of(job).__truediv__("result.json").read_json()
    assert result is not None
    hits = result["metrics"]["hr@1"]
    assert hits["runs"] == [0.5, 0.75, 1.0] and hits["value"] == 0.75
    assert (hits["deviation"], hits["least"], hits["greatest"]) == (0.25, 0.5, 1.0)
    assert 0 <= hits["low"] < 0.75 < hits["high"] <= 1
    assert result["metrics"]["coverage@1"]["low"] is None
    assert result["metrics"]["coverage@1"]["value"] == 0.5
    popular = result["baselines"]["popularity"]["hr@1"]
    assert (popular["value"], popular["deviation"], popular["low"]) == (0.0, 0.0, 0.0)
    assert result["pooled"] == ["small-seed-3", "small-seed-4", "small-seed-5"]
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(seeds.table(result))
    lines = [line.split() for line in console.export_text().splitlines()]
    low, high = f"{hits['low']:.4f}", f"{hits['high']:.4f}"
    assert ["hr@1", "0.7500", low, "–", high, "0.2500", "0.5000", "1.0000"] in lines
    assert ["hr@1", "0.0000", "±", "0.0000"] in lines
    large = {"value": 1234.5, "deviation": 321.1, "low": 1000.1, "high": 2000.2}
    for number in range(6):
        found = {"hr@1": hits, "popularity@10": {**hits, **large}}
        result["baselines"][f"recent_popularity_{number}"] = found
    wide = Console(width=300, record=True, file=(tmp_path / "out").open("w"))
    wide.print(*seeds.table(result).renderables[:-1])
    shown = wide.export_text()
    assert shown.count("mean ± deviation") >= 3
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_finished_seeds_are_not_repeated(tmp_path: Path, fake: Pipeline) -> None:
    job = small_job(tmp_path, "report=null", "recommend=null")
    fake.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        seeds.run(job, [], [3, 4, 5])
    assert not (seeds.folder_of(job) / "result.json").exists()
    fake.fail_at, fake.calls = -1, []
    assert seeds.run(job, [], [3, 4, 5]) is not None
    assert [name for name, _, _ in fake.calls] == ["small", "small-seed-4", "small-seed-5"]
    found = seeds.states(job, [], [3, 6])
    assert list(found) == ["small", "small-seed-3", "small-seed-6"]
    assert {s.state for s in found["small-seed-3"]} == {"complete"}
    assert {s.state for s in found["small-seed-6"]} == {"to do"}


def test_a_dry_run_of_seeds_runs_nothing(tmp_path: Path, fake: Pipeline) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(dump_job(small_job(tmp_path)))
    done = CliRunner().invoke(app, ["run", str(file), "--seeds", "2", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["small"] == {"prepare": "to do"}
    assert list(found["small-seed-4"]) == small_job(tmp_path).stages()[1:]
    assert fake.calls == [] and not (tmp_path / "small-seed-3").exists()


def test_without_evaluation_there_is_no_summary(tmp_path: Path, fake: Pipeline) -> None:
    assert seeds.run(small_job(tmp_path), ["prepare", "pretrain"], [3, 4]) is None


@pytest.mark.slow
def test_two_seeds_killed_in_the_middle(tmp_path: Path) -> None:
    """Killed while the second seed trains; the same command finishes. The split is the same, the
    losses are not, and the first seed is not touched again."""
    write_log(tmp_path)
    settings = ["pretrain.steps=120", "scale.workers=1", "report=null", "recommend=null"]
    job_file = str(tmp_path / "job.yaml")
    words = [sys.executable, "-m", "p5dist.cli.main", "run", job_file, "--seeds", "2", *settings]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    runs = tmp_path / "runs"
    second = runs / "tiny-seed-2/pretrain/checkpoints"
    end = time.monotonic() + 300
    while not list(second.glob("*/complete.json")):
        assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.05)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.wait(60)
    psutil.wait_procs(family, timeout=60)
    first = {p: p.stat().st_mtime_ns for p in (runs / "tiny-seed-1").rglob("*.json*")}
    assert not (runs / "tiny-seed-2/evaluate/result.json").exists()

    again = subprocess.run(
        [*words, "--json"], capture_output=True, text=True, check=False, timeout=400
    )
    assert again.returncode == 0, again.stderr
    assert "seed 1 (1/2) complete, skipped" in again.stderr and "pretrain continues" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in first} == first
    result = json.loads(again.stdout)
    evaluated = [json.loads((runs / f"tiny-seed-{k}/evaluate/result.json").read_text())
                 for k in (1, 2)]  # fmt: skip
    for key, numbers in result["metrics"].items():
        values = [one["metrics"][key]["value"] for one in evaluated]
        assert numbers["value"] == pytest.approx(statistics.mean(values))
        assert numbers["deviation"] == pytest.approx(statistics.stdev(values))
    for key in ("ndcg@10", "rmse"):
        numbers = result["metrics"][key]
        assert numbers["low"] <= numbers["value"] <= numbers["high"]
    assert evaluated[0]["data_fingerprint"] == evaluated[1]["data_fingerprint"]
    by_seed = [
        {
            name: {key: value for key, value in found.items() if not key.startswith("diversity")}
            for name, found in one["baselines"].items()
            if name != "model_alone"
        }
        for one in evaluated
    ]
    assert by_seed[0] == by_seed[1] and "popularity" in by_seed[0]  # trained on nothing of a seed
    losses = [(runs / f"tiny-seed-{k}/pretrain/metrics.jsonl").read_text() for k in (1, 2)]
    assert losses[0] != losses[1]
    assert not (runs / "tiny-seed-1/prepare").exists() and (runs / "tiny/prepare").exists()
    job = load_job(tmp_path / "job.yaml")
    plain = subprocess.run(
        [sys.executable, "-m", "p5dist.cli.main", "compare", str(runs / "tiny-seeds"),
         str(runs / "tiny-seed-1"), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    compared = json.loads(plain.stdout)
    assert compared["warnings"] == [] and compared["sides"][0]["label"] == f"{job.name} × 2"
