"""Tracking in MLflow, also if MLflow is not installed or unreachable."""

from __future__ import annotations

import logging
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from p5dist.errors import InstallError, StoppedError
from p5dist.observe import tracking
from p5dist.observe.events import Logged, Validated
from p5dist.observe.tracking import Tracked, Tracker, evaluation, parameters, tracker
from tests.s3 import free_port
from tests.small_data import small_job


def test_parameters_are_the_resolved_job_without_secrets(tmp_path: Path) -> None:
    job = small_job(tmp_path, "tracking.mlflow='https://me:planted@tracks/x'")
    found = parameters(job)
    assert found["pretrain.dense.lr"] == "0.001"
    assert found["finetune.rating.task.kind"] == "rating"
    assert found["evaluate.k"] == "[1, 5, 10, 20]"
    assert "pretrain.validation" not in found
    assert "planted" not in str(found)
    assert job.fingerprint("report") == small_job(tmp_path).fingerprint("report")


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InstallError, match="pip install 'mlflow>=3,<4'"):
        Tracker(small_job(tmp_path, "tracking.mlflow=sqlite:///x.db"), "runs/small")
    with tracker(small_job(tmp_path), "runs/small") as nothing:
        assert nothing is None


def _tell(tracked: Tracker, first: int) -> None:
    stage = Tracked("pretrain", tracked.metrics)
    for step in (first, first + 1):
        stage.on(Logged(step, 0, 1 / step, lr=0.1, samples_per_second=10.0 * step, seconds={}))
    stage.on(Logged(first + 2, 0, None, lr=0.2, samples_per_second=5.0, seconds={}))
    stage.on(Validated(first + 1, "ndcg@10", 0.25))


def test_a_run_and_its_continuation_are_one_run(tmp_path: Path) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/tracks.db"
    job = small_job(tmp_path, f"tracking.mlflow={uri}")
    with (
        pytest.raises(StoppedError),
        tracker(job, "runs/small") as tracked,
    ):
        assert tracked is not None
        _tell(tracked, 1)
        raise StoppedError("stopped")
    with tracker(job, "runs/small") as tracked:
        assert tracked is not None
        _tell(tracked, 4)
        tracked.metrics(evaluation({"metrics": {"hr@5": {"value": 0.5, "low": 0.4, "high": 0.6}}}))
    with tracker(job, "runs/other"):
        pass
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("p5dist").experiment_id
    (run,) = client.search_runs([experiment], "tags.`p5dist.run` = 'runs/small'")
    assert len(client.search_runs([experiment])) == 2
    assert (run.info.run_name, run.info.status) == ("small", "FINISHED")
    assert run.data.params == {k: v[:500] for k, v in parameters(job).items()}
    id = run.info.run_id

    def history(name: str) -> list[tuple[int, float]]:
        return sorted((m.step, m.value) for m in client.get_metric_history(id, name))

    assert history("pretrain/loss") == [(1, 1.0), (2, 0.5), (4, 0.25), (5, 0.2)]
    assert history("pretrain/lr")[-1] == (6, 0.2)
    assert history("pretrain/validation/ndcg_at_10") == [(2, 0.25), (5, 0.25)]
    assert history("evaluate/hr_at_5") == [(0, 0.5)]


def test_a_server_that_is_away_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://me:planted@127.0.0.1:{free_port()}"
    with (
        caplog.at_level(logging.WARNING, "p5dist"),
        tracker(small_job(tmp_path, f"tracking.mlflow='{uri}'"), "runs/small") as tracked,
    ):
        assert tracked is not None
        _tell(tracked, 1)
        _tell(tracked, 4)
    (record,) = caplog.records
    assert record.name == "p5dist.observe.tracking"
    assert "logging in MLflow stopped" in record.getMessage()
    assert "planted" not in record.getMessage()


def test_a_server_that_stays_silent_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "_CLOSE_S", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,  # accepts, and never answers
        caplog.at_level(logging.WARNING, "p5dist"),
    ):
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        with tracker(small_job(tmp_path, f"tracking.mlflow='{uri}'"), "runs/small") as tracked:
            assert tracked is not None
            begin = time.monotonic()
            for step in range(1, 100, 3):
                _tell(tracked, step)
            assert time.monotonic() - begin < 0.4
        assert time.monotonic() - begin < 4
        assert [r.getMessage() for r in caplog.records] == [
            "MLflow is slow; not all numbers were logged there"
        ]


def test_of_several_tasks_each_has_its_metrics() -> None:
    tasks = {
        f"finetune/both/{n}": {"metrics": {"rmse": {"value": v}}} for n, v in (("a", 1), ("b", 2))
    }
    result = {"metrics": {"rmse": {"value": 2}}, "tasks": tasks}
    expected = {"evaluate/rmse": 2.0, "evaluate/finetune/both/a/rmse": 1.0}
    assert evaluation(result) == expected | {"evaluate/finetune/both/b/rmse": 2.0}
    one = {"finetune/a": tasks["finetune/both/a"]}
    assert evaluation({**result, "tasks": one}) == {"evaluate/rmse": 2.0}
