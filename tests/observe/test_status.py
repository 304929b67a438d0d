"""p5dist status reads a run folder in every state of a run."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from p5dist import pipeline
from p5dist.cli.main import app
from p5dist.config import dump_job
from p5dist.errors import DataError, RunFolderError, StoppedError
from p5dist.observe.stages import report_end
from p5dist.observe.status import Status, read
from p5dist.storage import RunFolder
from tests.s3 import Store
from tests.small_data import small_job, write_small_data


def begin(folder: RunFolder, steps: int = 0) -> None:
    """A pre-training that logged ``steps`` of its 20 steps at 6 histories a second."""
    (folder.root / "state.json").write_json({"state": "running", "since": 1.0, "error": None})
    stage = folder.training("pretrain")
    (stage / "checkpoints").make()
    lines = [
        {"step": n, "epoch": 0, "loss": 5.0 - n / 10, "samples_per_second": 6.0}
        for n in range(1, steps + 1)
    ]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    job = small_job(tmp_path)
    folder = write_small_data(job)
    folder.job.write_text(dump_job(job))
    return folder


def test_a_run_that_goes_on(folder: RunFolder) -> None:
    begin(folder, steps=15)
    for step in (5, 10, 15):
        place = folder.training("pretrain") / f"checkpoints/step-{step:08d}"
        (place / "meta.json").write_json({})
        if step < 15:  # the last one is being written
            (place / "complete.json").write_json({"files": {}})
    with Path(folder.root.path, ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = read(str(folder.root))
        shown = CliRunner().invoke(app, ["status", str(folder.root)]).stdout
    assert status.state == "running"
    assert status.stage == "pretrain"
    assert status.stages["prepare"] == "complete"
    assert status.stages["pretrain"] == "to continue"
    assert status.training is not None
    assert (status.training.step, status.training.total) == (15, 20)
    assert status.training.loss == 3.5
    assert status.training.seconds_left == pytest.approx(5 * 12 / 6), "5 steps of 12 at 6 a second"
    assert status.checkpoint == "step-00000010"
    assert "15 of 20 (75%), loss 3.5000" in shown
    assert "time left   10 s" in shown


def test_a_command_that_was_killed(folder: RunFolder) -> None:
    begin(folder)
    status = read(str(folder.root))
    assert (status.state, status.training) == ("interrupted", None)


def test_the_length_of_epochs_comes_from_the_data(folder: RunFolder, tmp_path: Path) -> None:
    job = small_job(tmp_path, "pretrain.steps=null", "pretrain.epochs=2")
    folder.job.write_text(dump_job(job))
    begin(folder, steps=1)
    training = read(str(folder.root)).training
    # 50 histories in 6 lanes, 12 a step: the fullest lane decides, at least ⌈50 / 12⌉ steps.
    assert training is not None and training.total is not None
    assert training.total >= 2 * 5
    (folder.prepare / "manifest.json").remove()
    assert read(str(folder.root)).training is None, "nothing is prepared: prepare is next"


@pytest.mark.parametrize(
    ("error", "state"),
    [(DataError("the log ends early", where="ftp://user:planted@host/a.csv"), "failed"),
     (StoppedError("stopped as asked"), "stopped"), (KeyboardInterrupt(), "stopped")],
)  # fmt: skip
def test_how_a_command_ended(
    folder: RunFolder, tmp_path: Path, error: BaseException, state: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "_run_stage", fail)
    # Ctrl-C becomes an error with a message.
    kind = StoppedError if isinstance(error, KeyboardInterrupt) else type(error)
    with pytest.raises(kind):
        pipeline.run(small_job(tmp_path), ["pretrain"])
    status = read(str(folder.root))
    assert status.state == state
    assert status.error is not None and status.error.startswith(f"{kind.__name__}: ")
    assert "planted" not in (folder.root / "state.json").read_bytes().decode()
    monkeypatch.setattr(pipeline, "_run_stage", lambda *_: {})
    pipeline.run(small_job(tmp_path), ["pretrain"])
    assert read(str(folder.root)).error is None


def test_a_complete_run(folder: RunFolder, tmp_path: Path) -> None:
    job = small_job(tmp_path)
    for stage in ("pretrain", "finetune/rating", "evaluate", "recommend"):
        result = {"job_fingerprint": job.fingerprint(stage)}
        (folder.root / stage / "result.json").write_json(result)
    (folder.root / "pretrain/starts.json").write_json([{"step": 0}, {"step": 5}, {"step": 5}])
    (folder.root / "finetune/rating/starts.json").write_json([{"step": 0}])
    folder.report.write_text("<html>" + report_end(job, folder))
    (folder.root / "state.json").write_json({"state": "idle", "since": 1.0, "error": None})
    status: Status = read(str(folder.root))
    assert set(status.stages.values()) == {"complete"}
    assert (status.state, status.stage, status.restarts) == ("complete", None, 2)
    (folder.root / "recommend/result.json").write_json(
        {"job_fingerprint": job.fingerprint("recommend"), "users": 7}
    )
    status = read(str(folder.root))
    assert (status.stage, status.stages["report"]) == ("report", "to do"), "of earlier results"


def test_the_length_of_epochs_counts_the_own_part_of_mixed_batches(tmp_path: Path) -> None:
    other = small_job(tmp_path, "name=other")
    folder = write_small_data(other)
    mixed = f"feed.mix={{other: {{data: {folder.root}}}}}"
    job = small_job(tmp_path, mixed, "pretrain.steps=null", "pretrain.epochs=2")
    run = write_small_data(job)
    run.job.write_text(dump_job(job))
    begin(run, steps=1)
    training = read(str(run.root)).training
    # 50 own histories; of a batch of 12, 6 are own: at least ⌈50 / 6⌉ = 9 steps an epoch.
    assert training is not None and training.total is not None
    assert 2 * 9 <= training.total < 2 * 2 * 9


def test_secrets_of_a_job_do_not_get_into_the_run_folder(tmp_path: Path) -> None:
    job = small_job(tmp_path, "prepare.source.files=[ftp://user:planted@host/log.csv]")
    folder = write_small_data(job)
    for _ in range(2):  # the owner is still known the second time
        pipeline.run(job, ["prepare"])
    written = folder.job.read_bytes().decode()
    assert "planted" not in written
    assert yaml.safe_load(written)["prepare"]["source"]["files"] == ["ftp://•••@host/log.csv"]
    assert "planted" not in CliRunner().invoke(app, ["status", str(folder.root)]).stdout


def test_a_job_file_stands_for_its_run(folder: RunFolder, tmp_path: Path) -> None:
    begin(folder, steps=3)
    path = tmp_path / "job.yaml"
    path.write_text(dump_job(small_job(tmp_path)))
    assert read(str(path)).run == str(folder.root)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run here(.|\n)*nothing"):
        read(str(tmp_path / "nothing"))


def test_a_run_on_object_storage(s3: Store) -> None:
    url = f"s3://{s3.bucket}/runs"
    job = small_job(Path("x"), f"storage={url}")
    folder = RunFolder.of(url, job.name)
    folder.job.write_text(dump_job(job))
    begin(folder)
    status = read(str(folder.root))
    assert (status.run, status.state, status.stage) == (f"{url}/small", "running", "prepare")
