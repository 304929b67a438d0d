"""Run folders: the job that owns them, skipped stages, and one process at a time."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import p5dist
from p5dist import pipeline
from p5dist.cli.main import app
from p5dist.config import dump_job
from p5dist.errors import CheckpointError, ConfigError, DataError, RunFolderError
from p5dist.observe.stages import progress, select
from tests.small_data import small_job, write_small_data


def test_an_unknown_stage_names_those_of_the_job(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown stage 'train'(.|\n)*prepare, pretrain, finet"):
        pipeline.run(small_job(tmp_path), ["train"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: p5dist.run(5), r"(?s)not a job.*value: 5"),  # type: ignore[arg-type]
        (lambda: p5dist.run(None), r"(?s)not a job.*value: None"),  # type: ignore[arg-type]
        (lambda: p5dist.run({"name": "a"}), "not a job"),  # type: ignore[arg-type]
        (lambda: p5dist.run("job.yaml", "prepare"), "stages is not a list of text"),
        (lambda: p5dist.run("job.yaml", None), "stages is not a list"),  # type: ignore[arg-type]
        (lambda: p5dist.run("job.yaml", overrides="seed=1"), "overrides is not a list of text"),
        (lambda: p5dist.load(None), r"(?s)not a run.*value: None"),  # type: ignore[arg-type]
        (lambda: p5dist.load(""), "not a run"),
    ],
)  # fmt: skip
def test_what_is_no_job_and_no_run(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("words", [["no-such-command"], ["run", "--no-such-option", "job.yaml"]])
def test_a_wrong_call_ends_with_the_usage_and_code_2(words: list[str]) -> None:
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2 and "Usage" in found.output


def test_stages_are_selected_in_the_order_of_the_job(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    everything = ["prepare", "pretrain", "finetune/rating", "evaluate", "recommend", "report"]
    assert select(job, []) == everything
    assert select(job, ["evaluate", "finetune", "prepare"]) == [
        "prepare",
        "finetune/rating",
        "evaluate",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [("seed=4", "seed: 3 then, 4 now"), ("model.dim=32", "model.dim: 16 then, 32 now")],
)
def test_a_run_folder_of_another_job_is_refused(
    tmp_path: Path, override: str, message: str
) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    (folder.training("pretrain") / "checkpoints").make()
    folder.job.write_text(dump_job(job))
    before = folder.job.read_bytes()
    with pytest.raises(RunFolderError, match=message):
        pipeline.run(small_job(tmp_path, override), ["pretrain"])
    assert folder.job.read_bytes() == before
    assert folder.prepare.exists()


def test_another_scale_is_the_same_job_and_complete_stages_are_skipped(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    folder.job.write_text(dump_job(job))
    done = {"steps": 20}
    (folder.training("pretrain") / "result.json").write_json(done)
    larger = small_job(tmp_path, "scale.workers=3", "pretrain.checkpoint.every=7")
    assert pipeline.run(larger, ["prepare", "pretrain"])["pretrain"] == done


def test_the_plan_of_a_dry_run(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    (folder.training("pretrain") / "checkpoints").make()
    states = {step.stage: step.state for step in progress(job, folder, [])}
    assert states == {
        "prepare": "complete",
        "pretrain": "to continue",
        "finetune/rating": "to do",
        "evaluate": "to do",
        "recommend": "to do",
        "report": "to do",
    }
    assert not folder.job.exists()


def test_the_plan_of_a_dry_run_that_starts_anew(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    folder.job.write_text(dump_job(job))
    (folder.training("pretrain") / "result.json").write_json({})
    states = {step.stage: step.state for step in progress(job, folder, ["pretrain"], fresh=True)}
    assert states == {"pretrain": "to do"}
    fresh = {step.stage: step.state for step in progress(job, folder, [], fresh=True)}
    assert set(fresh.values()) == {"to do"}
    larger = small_job(tmp_path, "model.dim=32")  # as the run itself: what is deleted may differ
    assert progress(larger, folder, ["pretrain"], fresh=True)[0].state == "to do"
    with pytest.raises(RunFolderError, match=r"model\.dim"):
        progress(larger, folder, ["pretrain"])


def test_evaluation_is_made_anew_when_its_settings_change(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    result = {"job_fingerprint": job.fingerprint("evaluate")}
    (folder.evaluate / "result.json").write_text(json.dumps(result))
    assert progress(job, folder, ["evaluate"])[0].state == "complete"
    changed = small_job(tmp_path, "evaluate.k=[3]")
    assert progress(changed, folder, ["evaluate"])[0].state == "to do"


def test_a_second_process_in_the_folder_is_refused(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    with Path(folder.root.path, ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="another process"):
            pipeline.run(job, ["prepare"])
    pipeline.run(job, ["prepare"])


def test_nothing_is_deleted_if_what_a_fresh_start_reads_is_not_there(tmp_path: Path) -> None:
    job = small_job(tmp_path, f"prepare.source.files={tmp_path}/nowhere/log.tsv")
    folder = write_small_data(job)
    (folder.training("pretrain") / "result.json").write_json({})
    with pytest.raises(DataError, match="no such file"):
        pipeline.run(job, [], fresh=True)
    other = small_job(tmp_path, f"pretrain.init_from={tmp_path}/nowhere/run/pretrain")
    with pytest.raises(CheckpointError, match="init_from"):
        pipeline.run(other, ["pretrain"], fresh=True)
    assert (folder.prepare / "manifest.json").exists()
    assert (folder.training("pretrain") / "result.json").exists()
